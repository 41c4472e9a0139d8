"""A release as a page that runs it: a static site for any server, which computes in the visitor's browser."""
