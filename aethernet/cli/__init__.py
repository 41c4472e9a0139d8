"""The command line; :mod:`aethernet.cli.main` declares it."""
