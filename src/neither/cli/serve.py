"""Command `serve RUN_OR_CHECKPOINT [--host 127.0.0.1] [--port 8000] [--allowed-host NAME]`."""

import argparse
from pathlib import Path

from neither.cli.command import check_installation, require_packages, run_command
from neither.runtime.console import info, print_line

PACKAGES = ("fastapi", "uvicorn", "python_multipart")  # of the extra [serve]


def main() -> int:
    """Serve; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Serve a web page and a JSON API that predict the class of images. Nothing "
        "that is sent is kept.",
        epilog="example: serve.py runs/photos --port 8080",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    add_arguments(parser)
    arguments = parser.parse_args()
    return run_command(lambda: _serve(arguments))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a server."""
    parser.add_argument("--host", default="127.0.0.1",
                        help="where to listen (default: %(default)s, this machine alone); others, "
                        "such as 0.0.0.0, need the token that is printed")  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                        help="a name that browsers may call this server by, besides localhost and "
                        "IP addresses; may be given several times")  # fmt: skip


def _serve(arguments: argparse.Namespace) -> int:
    require_packages("serve", *PACKAGES)
    check_installation()
    from neither.inference.classifier import load_classifier
    from neither.runtime.devices import choose_device_config
    from neither.serving.app import create_app, describe_model
    from neither.serving.engine import Engine
    from neither.serving.guard import Guard, new_token
    from neither.serving.server import address_of, is_local, open_socket, run_server

    with open_socket(arguments.host, arguments.port) as listener:
        device = choose_device_config("auto", "float32").device
        classifier = load_classifier(arguments.model, device)
        token = None if is_local(listener) else new_token()
        engine = Engine(classifier)
        app = create_app(engine, describe_model(arguments.model, classifier))
        print_line(f"{address_of(listener)}{f'#{token}' if token else ''}")
        info("open this address in a browser; Ctrl-C ends the server")
        run_server(Guard(app, token, arguments.allowed_host), listener, engine.close)
    return 0
