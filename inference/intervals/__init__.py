"""Test statistics, critical values of large samples, intervals and limits."""
