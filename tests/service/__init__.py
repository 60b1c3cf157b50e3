"""The whole of it: the API over a socket, the graph in Serve, the command line."""
