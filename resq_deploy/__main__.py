"""`python -m resq_deploy` is the `resq-deploy` command."""

from resq_deploy.cli import main

if __name__ == "__main__":
    main()
