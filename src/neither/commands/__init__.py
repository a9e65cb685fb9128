"""The commands: arguments in, exit code out."""

import sys

_COMMANDS = {
    "train": "train a network as a config says",
    "evaluate": "score a run on a folder of images",
    "predict": "say of images what they show",
    "export": "write a run as one file for other programs",
    "check_data": "say what may go wrong with a folder of images",
    "prepare_data": "make a folder of images to train on",
}


def main() -> int:
    """Run `neither COMMAND ...`; return the exit code."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in _COMMANDS:
        lines = "\n".join(f"  {command:14} {what}" for command, what in _COMMANDS.items())
        asked = name in ("", "__help", "_h")
        print(
            f"usage: neither COMMAND ...\n\n{lines}\n\nneither COMMAND --help tells more",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    from importlib import import_module

    sys.argv = [f"neither {name}", *sys.argv[2:]]
    code: int = import_module(f"neither.commands.{name}").main()
    return code
