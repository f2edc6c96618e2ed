"""From the tree of a source to what a server is spared, and how often it is asked again: `timeouts`, `retries`,
`outliers` and `rateLimit` of an entry of `servers`."""

from openmcp.config import model
from openmcp.config.callers import callers
from openmcp.config.cursor import At, Reading, Shape, boolean, choice, integer, list_of, pairs, some, unique
from openmcp.config.model import Configuration, RedisState, Server
from openmcp.config.values import TEXT_GLOB, URI_GLOB, duration, glob, share

_MOST = 1_000_000_000
_tools = some(list_of(glob(TEXT_GLOB)), "name tools, or remove the key")

timeouts: Reading[model.Timeouts] = Shape(
    model.Timeouts,
    {"connect": duration, "request": duration, "idle": duration, "stream": duration, "tools": pairs(duration)},
)
retries: Reading[model.Retries] = Shape(
    model.Retries, {"attempts": integer(1, 10), "tools": _tools, "backoff": duration, "budget": share}
)
outliers: Reading[model.Outliers] = Shape(
    model.Outliers, {"failures": integer(1, 1000), "ejectFor": duration, "maxEjected": share}
)


_limit: Reading[model.RateLimit] = Shape(
    model.RateLimit,
    {
        "by": unique(list_of(choice(("agent", "tool"))), "word"),
        "requests": integer(1, _MOST),
        "per": duration,
        "burst": integer(1, _MOST),
        "agents": some(list_of(glob(URI_GLOB)), "name agents, or remove the key"),
        "tools": _tools,
        "shared": boolean,
    },
    required=("requests", "per"),
)
rate_limit: Reading[tuple[model.RateLimit, ...]] = list_of(_limit, most=100)


def check_resilience(made: Configuration, server: Server, at: At) -> None:
    """What one of these keys cannot know by itself: the state that limits are shared in, the number of endpoints."""
    _check_limits(made, server, at)
    _check_outliers(server, at)
    retried = at.key("retries")
    named = retried.key("tools") if retried is not None else None
    for item in (named.items() if named is not None else None) or ():
        if set(item.text()) == {"*"}:
            item.warn(
                "every tool is called again when its answer is lost: one that has an effect may have it twice",
                "name those that may be called twice: search_*, get_*",
            )


def _check_limits(made: Configuration, server: Server, at: At) -> None:
    entries = at.key("rateLimit")
    for limit, entry in zip(server.rate_limit, (entries.items() if entries is not None else None) or (), strict=True):
        if limit.shared and not isinstance(made.state, RedisState):
            (entry.key("shared") or entry).error(
                "a shared limit is counted in Redis, and `state` is another one", "write state: {type: redis, url: ...}"
            )
        named = entry.key("agents")
        for item in (named.items() if named is not None else None) or ():
            if made.identity.agents and not any(caller.may_be(item.text()) for caller in callers(made)):
                item.warn(f'no caller that `identity.agents` identifies is named "{item.text()}"')


def _check_outliers(server: Server, at: At) -> None:
    found = at.key("outliers")
    if found is None or server.outliers is None or server.stdio is not None:
        return
    if int(server.outliers.max_ejected * len(server.endpoints)) == 0:
        share_of = f"{server.outliers.max_ejected:g} of {len(server.endpoints)}"
        found.warn(
            f"no endpoint is ever left out: {share_of} is less than one",
            "with maxEjected: 1 all of them may be, and calls are then refused at once",
        )
