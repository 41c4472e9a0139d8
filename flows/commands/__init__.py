"""The commands of ``python -m flows``, one file per group; :mod:`flows.__main__` lists them."""
