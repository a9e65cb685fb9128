try:
    from neither.cli.main import run
except KeyboardInterrupt:
    raise SystemExit(130) from None

if __name__ == "__main__":
    raise SystemExit(run("review"))
