from neither.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
