# SPDX-License-Identifier: Apache-2.0
"""The screens, from all jobs down to one interface."""
