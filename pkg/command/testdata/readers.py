"""Prints what a reader finds in a Parquet store: readers.py READER STORE.

One line of JSON per log type: the rows, and of each column its kind, the count
of values, and a sum: of numbers, of microseconds since the epoch, or of bytes.
"""
import glob, json, math, os, sys

KINDS = ("int", "float", "bool", "time", "text")


def number(kind, x):
    if kind == "float":
        return "%.9e" % x
    return int(x or 0)


def of_duckdb(path):
    import duckdb
    rel = duckdb.sql(f"select * from read_parquet('{path}/**/*.parquet', hive_partitioning = true, union_by_name = true)")
    kinds = {"BIGINT": "int", "INTEGER": "int", "DOUBLE": "float", "BOOLEAN": "bool", "TIMESTAMP WITH TIME ZONE": "time", "VARCHAR": "text", "DATE": "date"}
    columns = {c: kinds[str(t)] for c, t in zip(rel.columns, rel.types)}
    sums = {"int": "sum({0}::hugeint)", "bool": "sum({0}::int)", "time": "sum(epoch_us({0})::hugeint)", "text": "sum(strlen({0}))",
            "float": "sum({0}) filter (isfinite({0}))"}
    ask = [f'count("{c}")' for c in columns] + [sums[k].format(f'"{c}"') if k in sums else "0" for c, k in columns.items()]
    got = rel.aggregate("count(*), " + ", ".join(ask)).fetchall()[0]
    return got[0], columns, got[1:1 + len(columns)], got[1 + len(columns):]


def of_clickhouse(path):
    import chdb
    table = f"file('{path}/**/*.parquet', Parquet)"
    settings = " settings schema_inference_mode = 'union', use_hive_partitioning = 1, session_timezone = 'UTC'"
    kinds = {"Int64": "int", "Float64": "float", "Bool": "bool", "String": "text", "Date": "date", "Date32": "date"}
    columns = {}
    for line in str(chdb.query(f"describe table (select * from {table}{settings})", "JSONEachRow")).splitlines():
        col = json.loads(line)
        kind = col["type"].removeprefix("LowCardinality(").removeprefix("Nullable(").rstrip(")")
        columns[col["name"]] = "time" if kind.startswith("DateTime64(6") else kinds[kind]
    sums = {"int": "toString(sum(toInt128({0})))", "bool": "toString(sum(toInt64({0})))", "time": "toString(sum(toInt128(toUnixTimestamp64Micro({0}))))",
            "text": "toString(sum(length({0})))", "float": "sumIf({0}, isFinite({0}))"}
    ask = [f"count(`{c}`)" for c in columns] + [sums[k].format(f"`{c}`") if k in sums else "0" for c, k in columns.items()]
    names = [f"{a} as a{i}" for i, a in enumerate(["count()"] + ask)]
    got = list(json.loads(str(chdb.query(f"select {', '.join(names)} from {table}{settings}", "JSONEachRow"))).values())
    return int(got[0]), columns, [int(n) for n in got[1:1 + len(columns)]], got[1 + len(columns):]


def table(path):
    import pyarrow as pa, pyarrow.dataset as ds
    files = sorted(glob.glob(path + "/**/*.parquet", recursive=True))
    schema = pa.unify_schemas([ds.dataset(f, partitioning="hive").schema for f in files], promote_options="permissive")
    return ds.dataset(path, partitioning="hive", schema=schema).to_table()


def kind_of_arrow(t):
    import pyarrow.types as pt
    for kind, is_kind in zip(KINDS, (pt.is_integer, pt.is_floating, pt.is_boolean, pt.is_timestamp, lambda t: pt.is_string(t) or pt.is_large_string(t))):
        if is_kind(t):
            return kind
    return "date"


def of_pyarrow(path):
    t = table(path)
    columns = {f.name: kind_of_arrow(f.type) for f in t.schema}
    counts, sums = [], []
    for name, kind in columns.items():
        values = [v for v in t[name].cast("int64" if kind in ("time", "bool") else t[name].type).to_pylist() if v is not None]
        counts.append(len(values))
        sums.append(total(kind, values))
    return t.num_rows, columns, counts, sums


def of_pandas(path):
    import pandas as pd
    t = table(path)
    df = t.to_pandas(types_mapper=pd.ArrowDtype)
    columns = {f.name: kind_of_arrow(f.type) for f in t.schema}
    counts, sums = [], []
    for name, kind in columns.items():
        col = df[name].dropna()
        if kind == "time":
            col = col.astype("int64[pyarrow]")
        counts.append(len(col))
        sums.append(total(kind, col.tolist()))
    return len(df), columns, counts, sums


def of_polars(path):
    import polars as pl
    files = sorted(glob.glob(path + "/**/*.parquet", recursive=True))
    df = pl.concat([pl.scan_parquet(f, hive_partitioning=True) for f in files], how="diagonal_relaxed").collect()
    kinds = {pl.Int64: "int", pl.Float64: "float", pl.Boolean: "bool", pl.String: "text", pl.Date: "date"}
    columns = {c: "time" if isinstance(t, pl.Datetime) else kinds[t.base_type()] for c, t in df.schema.items()}
    counts, sums = [], []
    for name, kind in columns.items():
        col = df[name].drop_nulls()
        if kind == "time":
            col = col.dt.epoch("us")
        counts.append(len(col))
        sums.append(total(kind, col.to_list()))
    return len(df), columns, counts, sums


def of_spark(path):
    from pyspark.sql import SparkSession, functions as f
    spark = (SparkSession.builder.master("local[2]").config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
             .config("spark.sql.sources.partitionColumnTypeInference.enabled", "true").getOrCreate())
    spark.sparkContext.setLogLevel("ERROR")
    df = spark.read.option("mergeSchema", "true").parquet(path)
    kinds = {"bigint": "int", "int": "int", "double": "float", "boolean": "bool", "timestamp": "time", "timestamp_ntz": "time", "string": "text", "date": "date"}
    columns = {c: kinds[t] for c, t in df.dtypes}
    one = {"int": lambda c: f.sum(c.cast("decimal(38,0)")), "bool": lambda c: f.sum(c.cast("bigint")),
           "time": lambda c: f.sum(f.unix_micros(c).cast("decimal(38,0)")), "text": lambda c: f.sum(f.octet_length(c)),
           "float": lambda c: f.sum(f.when(~f.isnan(c) & (f.abs(c) != float("inf")), c))}
    ask = [f.count(f.lit(1))] + [f.count(f.col(f"`{c}`")) for c in columns]
    ask += [one[k](f.col(f"`{c}`")) if k in one else f.lit(0) for c, k in columns.items()]
    got = df.agg(*[a.alias(f"a{i}") for i, a in enumerate(ask)]).collect()[0]
    return got[0], columns, list(got[1:1 + len(columns)]), list(got[1 + len(columns):])


def total(kind, values):
    if kind == "float":
        return math.fsum(v for v in values if math.isfinite(v))
    if kind == "text":
        return sum(len(v.encode()) for v in values)
    return 0 if kind == "date" else sum(int(v) for v in values)


reader, store = sys.argv[1:]
for path in sorted(glob.glob(store + "/type=*")):
    rows, columns, counts, sums = globals()["of_" + reader](path)
    # The partition columns are names of folders, whose types readers guess.
    found = {c: [k, n, number(k, float(s or 0) if k == "float" else s)] for (c, k), n, s in zip(columns.items(), counts, sums)
             if c not in ("type", "probe", "date")}
    print(json.dumps({"type": os.path.basename(path), "rows": rows, "columns": dict(sorted(found.items()))}))
