"""Where the command begins: until the command line is imported, Ctrl-C ends the process at once and without a word."""

import signal


def main() -> None:
    """Run the command line."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not ignored, as `nohup` may ask for
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from peftkit.cli import main as command

    signal.signal(signal.SIGINT, usual)
    command()


if __name__ == "__main__":
    main()
