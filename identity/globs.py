"""Globs as the configuration has them: `*` is any text, `?` one character, everything else itself."""


def matches(glob: str, text: str) -> bool:
    """Whether the whole of `text` matches, case counting. Takes at most len(glob) * len(text) steps."""
    g = t = 0
    star, resume = -1, 0
    while t < len(text):
        if g < len(glob) and glob[g] == "*":
            star, resume = g, t
            g += 1
        elif g < len(glob) and glob[g] in ("?", text[t]):
            g, t = g + 1, t + 1
        elif star >= 0:  # let the last star take one character more
            resume += 1
            g, t = star + 1, resume
        else:
            return False
    return glob[g:].strip("*") == ""
