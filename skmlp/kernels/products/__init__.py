"""Products of matrices in compiled code: the BLAS, and tiles for small ones."""
