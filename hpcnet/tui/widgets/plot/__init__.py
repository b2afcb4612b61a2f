# SPDX-License-Identifier: Apache-2.0
"""The last minutes of something, drawn."""
