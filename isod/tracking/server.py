"""MLflow's server for a machine that others can log in to: it listens on loopback, and asks for a password.

    python -m isod.tracking.server FOLDER [--port 5000] [--host 127.0.0.1]

FOLDER gets mlflow.db and artifacts/. The first start creates the password and writes it to ``~/.mlflow/credentials``,
where MLflow's own client finds it: what this user runs on this machine needs no further setting. On other machines, set
the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. Where the server itself finds these
two, it asks for them and writes no file, as in a container.
"""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import sys
from pathlib import Path

from isod.errors import InputError

USERNAME = "admin"  # it may add others: MLflow's users page, or its REST interface
HOST = "127.0.0.1"


def private_folder() -> Path:
    """Return ``~/.mlflow``: credentials, configuration and table of users of the server, readable by this user only."""
    return Path.home() / ".mlflow"


def credentials() -> tuple[str, str]:
    """Return user name and password of the environment, else of ~/.mlflow/credentials, which is made if it is missing.

    Raises:
        InputError: the file lacks one of them, or others can read it.
    """
    path = private_folder() / "credentials"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if (name := os.environ.get("MLFLOW_TRACKING_USERNAME")) and (word := os.environ.get("MLFLOW_TRACKING_PASSWORD")):
        return name, word
    if not path.exists():
        _write_private(path, {"mlflow_tracking_username": USERNAME,
                              "mlflow_tracking_password": secrets.token_urlsafe(24)})  # fmt: skip
    if path.stat().st_mode & 0o077:
        raise InputError(f"others can read the password in {path}: chmod 600 {path}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path)
        section = parser["mlflow"]
        return section["mlflow_tracking_username"], section["mlflow_tracking_password"]
    except (KeyError, configparser.Error, UnicodeDecodeError):
        raise InputError(
            f"{path} needs a section [mlflow] with mlflow_tracking_username and mlflow_tracking_password: write "
            f"them, or remove the file and {path.with_name('basic_auth.db')} (this removes all users) to get a new "
            "password"
        ) from None


def server_command(folder: Path, port: int, host: str = HOST) -> tuple[list[str], dict[str, str]]:
    """Return the server's command line, without secrets, and its environment."""
    username, password = credentials()
    configuration = private_folder() / "basic_auth.ini"
    _write_private(
        configuration,
        {
            "default_permission": "READ",
            "database_uri": f"sqlite:///{private_folder() / 'basic_auth.db'}",
            "admin_username": username,
            "admin_password": password.replace("%", "%%"),
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", host,
               "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
               "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),  # of its forms; need not outlive the server
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return command, os.environ | environment


def _write_private(path: Path, values: dict[str, str]) -> None:
    """Write one [mlflow] section into a file that is never readable by others."""
    lines = ["[mlflow]", *(f"{key} = {value}" for key, value in values.items())]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")


def _serve(folder: Path, port: int, host: str) -> None:
    command, environment = server_command(folder.resolve(), port, host)
    os.umask(0o077)
    (private_folder() / "server.pid").write_text(f"{os.getpid()}\n")  # for stopping it; exec keeps the number
    os.execve(command[0], command, environment)


def main() -> int:
    """Replace this process with the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--port", type=int, default=5000, metavar="P")
    parser.add_argument("--host", default=HOST, metavar="H", help="address to listen on (default: %(default)s)")
    options = parser.parse_args()
    try:
        _serve(options.folder, options.port, options.host)
    except InputError as error:
        print(f"isod.tracking.server: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
