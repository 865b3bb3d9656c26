"""scipy's matrix exponential, imported on first use: scipy takes longer to import than all of mambalib."""


def expm(Z):
    from scipy.linalg import expm

    return expm(Z)
