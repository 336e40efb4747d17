"""The file formats: one file each; every one turns a file's bytes into batches and refusals."""
