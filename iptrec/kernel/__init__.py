"""The only sockets, subprocesses, namespaces and clocks of iptrec. Imports nothing else of it."""
