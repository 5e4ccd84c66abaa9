"""The report of evaluations: tables, charts, and an explorer of queries."""
