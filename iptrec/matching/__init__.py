"""Does a rule match a packet?"""
