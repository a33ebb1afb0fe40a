"""Text that people have pasted for years, made into what a recording holds: datagrams, and names beside them.

A line tells some fields of a packet; its bytes are built again out of them (`packet`), and around these the
message that the kernel would have sent. What a line does not tell is left out where that can be done, and else
the stream says that it is not known (``untold``): no answer may show it.
"""
