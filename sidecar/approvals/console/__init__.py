"""The pages where people decide: `server.Console`. Its modules, but for `settings`, load aiohttp and Jinja: import them
only where there is a console."""
