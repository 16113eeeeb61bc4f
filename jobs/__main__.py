"""`python -m jobs` is `embedmill`."""

from jobs.cli import main

if __name__ == "__main__":
    main()
