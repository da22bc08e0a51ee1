"""Parses expressions as Prometheus would: python queries.py EXPRESSION..."""

import sys

import promql_parser

for expression in sys.argv[1:]:
    try:
        promql_parser.parse(expression)
    except ValueError as error:
        sys.exit(f"{expression}: {error}")
print(len(sys.argv) - 1)
