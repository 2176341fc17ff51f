"""The local runtime: embedded servers, a certificate authority and the processes of one machine. Importable without
the command line.
"""
