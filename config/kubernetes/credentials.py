"""Who we are towards the API server, and where it is: the files of a pod's service account, or a kubeconfig.

Both are looked at again before each request: tokens are rotated on disk (a projected one each hour), and so are CAs.
"""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts `token`, `ca.crt` and `namespace`."""
_MAX_FILE: Final = 1024 * 1024

Stamp = tuple[int, int, int]


class NoCluster(Exception):
    """There is nothing here that says how to reach an API server; the text says what is missing."""


class Access(msgspec.Struct, frozen=True):
    """What one request goes out with. Its representation leaves the token out."""

    server: str
    tls: ssl.SSLContext | None
    token: str | None = None
    server_name: str | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"Access({self.server})"


class Credentials(Protocol):
    """Where the API server is, and what we show it."""

    namespace: str

    async def access(self) -> Access:
        """For the next request. Raises `NoCluster` where a file is missing or a plugin failed."""


class InCluster:
    """The service account of this pod, as Kubernetes mounts it at `folder`."""

    def __init__(self, host: str, port: str, folder: Path = SERVICE_ACCOUNT) -> None:
        """Raises `NoCluster` where the folder lacks a file."""
        self._server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._token = _Text(folder / "token")
        self._ca = _Text(folder / "ca.crt")
        self._tls: tuple[str, ssl.SSLContext] | None = None
        self.namespace = _Text(folder / "namespace").read()
        self._token.read()

    async def access(self) -> Access:
        """See `Credentials`. Reads two small files in memory, where they have changed."""
        ca = self._ca.read()
        if self._tls is None or self._tls[0] != ca:
            self._tls = ca, _context(cadata=ca, where=str(self._ca.path))
        return Access(self._server, self._tls[1], self._token.read())


class _Text:
    """A small text file that is read again where it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: Stamp | None = None
        self._text = ""

    def read(self) -> str:
        try:
            found = os.stat(self.path)
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            if stamp != self._stamp:
                with self.path.open("rb") as stream:
                    self._text = stream.read(_MAX_FILE).decode("ascii").strip()
                self._stamp = stamp
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not plain text"
            raise NoCluster(f"{self.path}: {reason}") from None
        if not self._text:
            raise NoCluster(f"{self.path}: empty")
        return self._text


class Kubeconfig:
    """A context of a kubeconfig, read by the official client: it knows exec plugins, tokens and inline keys.

    That library takes 0.5 s and tens of MiB; it is imported here alone, and never in a pod.
    """

    def __init__(self, path: str | None = None, context: str | None = None) -> None:
        """`path` defaults to $KUBECONFIG and then ~/.kube/config, `context` to the current one. Runs exec plugins.
        Raises `NoCluster`."""
        try:
            from kubernetes.client import Configuration
            from kubernetes.config import kube_config
        except ImportError:
            raise NoCluster("a kubeconfig needs the official client: pip install 'openmcp[kubernetes]'") from None
        reader: Any = kube_config
        path = path or os.environ.get("KUBECONFIG")  # the library looks there when it is imported
        self._configuration = Configuration()
        self._configuration.proxy = None  # a proxy is used where the kubeconfig names one, whatever the environment
        try:
            contexts, active = reader.list_kube_config_contexts(path)
            reader.load_kube_config(path, context, self._configuration, persist_config=False)
        except Exception as error:  # of the file, its YAML, a plugin
            raise NoCluster(f"the kubeconfig cannot be used: {_first_line(error)}") from None
        chosen = next((entry for entry in contexts if entry["name"] == context), active)
        self.namespace: str = chosen["context"].get("namespace") or "default"
        self._tls: tuple[tuple[object, ...], ssl.SSLContext | None] | None = None

    async def access(self) -> Access:
        """See `Credentials`."""
        return await asyncio.to_thread(self._access)

    def _access(self) -> Access:
        made = self._configuration
        hook = made.refresh_api_key_hook
        try:
            if hook is not None:
                hook(made)
            files = made.ssl_ca_cert, made.cert_file, made.key_file
            key = (*files, *(_stamp(file) for file in files), made.verify_ssl)
            if self._tls is None or self._tls[0] != key:
                self._tls = key, self._context() if made.host.startswith("https:") else None
        except NoCluster:
            raise
        except Exception as error:  # a plugin may fail in any way
            raise NoCluster(f"the credentials of the kubeconfig cannot be had: {_first_line(error)}") from None
        token = made.api_key.get("BearerToken") or made.api_key.get("authorization")
        return Access(made.host, self._tls[1], _bare(token), made.tls_server_name, made.proxy)

    def _context(self) -> ssl.SSLContext:
        made = self._configuration
        context = _context(cafile=made.ssl_ca_cert, where="certificate-authority")
        if not made.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if made.cert_file:
            try:
                context.load_cert_chain(made.cert_file, made.key_file)
            except (OSError, ssl.SSLError):
                raise NoCluster("client-certificate and client-key of the kubeconfig are not a pair") from None
        return context


def _context(*, where: str, cadata: str | None = None, cafile: str | None = None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=cadata, cafile=cafile)
    except (OSError, ssl.SSLError, ValueError):
        raise NoCluster(f"{where}: not a PEM certificate") from None
    # Python 3.13 is strict by default, and the CAs of many clusters lack an authority key identifier.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _bare(token: str | None) -> str | None:
    return token.removeprefix("Bearer ") if token else None


def _stamp(file: str | None) -> Stamp | None:
    if not file:
        return None
    found = os.stat(file)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
