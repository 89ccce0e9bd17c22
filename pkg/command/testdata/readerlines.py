"""Runs the lines of tstatrepo-stores(7) for a reader: readerlines.py READER < LINES.

Prints the count and the sum that they find, separated by a space.
"""
import sys

reader, lines = sys.argv[1], sys.stdin.read()
if reader == "duckdb":
    import duckdb
    print(*duckdb.sql(lines).fetchall()[0])
elif reader == "clickhouse":
    import chdb
    print(str(chdb.query(lines, "TSV")).strip().replace("\t", " "))
else:
    names = {}
    if reader == "spark":
        from pyspark.sql import SparkSession
        names["spark"] = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    exec(lines, names)
