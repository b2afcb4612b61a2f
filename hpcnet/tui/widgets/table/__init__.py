# SPDX-License-Identifier: Apache-2.0
"""A table whose rows have keys."""
