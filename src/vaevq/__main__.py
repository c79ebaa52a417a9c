"""`python -m vaevq`, and so `torchrun -m vaevq`."""

from vaevq.cli import main

main()
