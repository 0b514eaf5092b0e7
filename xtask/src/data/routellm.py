"""RouteLLM's answers as graded rows: what is wanted (gsm8k or mmlu), the repository's folder, the file to write."""
import csv, json, pathlib, sys

wanted, root, out = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
csv.field_size_limit(1 << 26)
evals = root / "routellm" / "evals"
if wanted == "gsm8k":
    files = [("gsm8k", evals / "gsm8k" / "gsm8k_responses.csv")]
else:
    folder = evals / "mmlu" / "responses"
    files = [(f.stem.removeprefix("mmlu_"), f) for f in sorted(folder.glob("mmlu_*.csv"))]
experts = ["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"]
with open(out, "w", encoding="utf-8", newline="\n") as rows:
    for task, file in files:
        with open(file, encoding="utf-8", newline="") as table:
            for row in csv.DictReader(table):
                scores = {e: int(row[e] == "True") for e in experts}
                line = {"query": row["prompt"], "task": task, "scores": scores}
                rows.write(json.dumps(line, ensure_ascii=False) + "\n")
