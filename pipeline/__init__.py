"""The rooms: plan, read, tokens, pack, encode, pool, write, commit. README.md is the map."""
