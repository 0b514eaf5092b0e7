"""LLMRouter's graded answers with task and metric: the repository's folder, the file to write."""
import json, pathlib, sys

root, out = pathlib.Path(sys.argv[1]), sys.argv[2]
graded, queries = root / "data" / "dcrouter_preprocessed", root / "data" / "example_data" / "query_data"
with open(out, "w", encoding="utf-8", newline="\n") as rows:
    for split in ("train", "test"):
        known = {}
        for line in open(queries / f"default_query_{split}.jsonl", encoding="utf-8"):
            query = json.loads(line)
            known[query["query"]] = query
        for row in json.load(open(graded / f"{split}.json", encoding="utf-8")):
            query = known.get(row["question"], {})
            line = {
                "query": row["question"],
                "task": query.get("task_name"),
                "metric": query.get("metric"),
                "split": split,
                "scores": row["scores"],
            }
            rows.write(json.dumps(line, ensure_ascii=False) + "\n")
