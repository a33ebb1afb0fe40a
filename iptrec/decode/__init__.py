"""Raw bytes and text into values. Pure: no files, sockets or clocks."""
