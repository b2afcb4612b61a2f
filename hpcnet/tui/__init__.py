# SPDX-License-Identifier: Apache-2.0
"""hpcnet-tui: the networks of jobs, live, in a terminal. A leaf: nothing else imports it."""
