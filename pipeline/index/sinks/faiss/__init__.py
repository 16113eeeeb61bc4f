"""FAISS index files."""
