"""Large messages, read and inspected in a process beside the sidecar.

Parsing 10 MiB of JSON takes 10 to 100 ms, and no parser lets go of the interpreter meanwhile: in the sidecar itself,
in whatever thread, every other call would wait. So the worker parses, and hands back the little of the message that
has to be looked at in the sidecar; what is large stays bytes there.
"""
