# SPDX-License-Identifier: Apache-2.0
"""What the screens are made of."""
