# SPDX-License-Identifier: Apache-2.0
"""The lab: a whole Slurm cluster in network namespaces of one machine.

    lab = Lab.at()                   # the lab of $HPCNET_LAB or /var/lib/hpcnet-lab
    lab.up(Options(nodes=3))
    lab.run("login", ["srun", "-N2", "hostname"], user="alice").stdout
    lab.down()

``Lab`` and ``Options`` are in :mod:`hpcnet.lab.cluster`; nothing is imported here, so that
``lab run`` starts fast.
"""
