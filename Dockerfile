# embedmill on Ray's own image: for the nodes of a cluster, and for scheduled jobs.
#   docker build -t embedmill:latest .
#   docker build -t embedmill:latest-gpu --build-arg DEVICE=gpu .
ARG DEVICE=cpu
FROM rayproject/ray:2.60.0-py311-${DEVICE}

# Plain torch brings CUDA. For a small CPU image name an index that has CPU builds:
#   --build-arg PIP_ARGS="--extra-index-url URL"
ARG PIP_ARGS=""

# The layers of a CPU are compiled where they run.
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 1000

COPY --chown=1000:100 . /home/ray/embedmill
# Versions are those of locks/; the base image fixes Ray and Python.
WORKDIR /home/ray/embedmill
# hadolint ignore=SC2086
RUN pip install --no-cache-dir --no-deps --require-hashes -r locks/run.txt -r locks/cluster.txt \
    && pip install --no-cache-dir ${PIP_ARGS} -r locks/torch.txt \
    && pip install --no-cache-dir --no-deps --no-build-isolation . \
    && rm -rf /home/ray/embedmill/*
WORKDIR /home/ray

# Ray and its jobs ask for a token, and call nobody.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
# No ENTRYPOINT: KubeRay and `ray up` give the command.
CMD ["embedmill", "--help"]
