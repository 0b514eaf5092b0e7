"""MMLU-Pro's answers as rows of letters: the repository's folder, the file to write.

Questions in the order in which models, sorted by file name, first have them; of a question that a model has
twice its last answer counts."""
import ast, json, pathlib, sys, zipfile

MODELS = """
DeepSeek-Coder-V2 Llama-2-13b-hf Llama-2-70b-hf Llama-2-7b-hf Meta-Llama-3-70B Meta-Llama-3-8B
Meta-Llama-3_1-70B-Instruct Meta-Llama-3_1-70B Meta-Llama-3_1-8B-Instruct Meta-Llama-3_1-8B
Mistral-7B-Instruct-v0.1 Mistral-7B-Instruct-v0.2 Mistral-7B-v0.1 Mistral-7B-v0.2-hf
Mixtral-8x7B-Instruct-v0.1 Mixtral-8x7B-v0.1 Phi-3-mini-4k-instruct Qwen1.5-110B Qwen1.5-72B-Chat
Qwen1.5-7B-Chat Yi-34B Yi-6B Yi-6b-Chat c4ai-command-r-v01 gemini-1.5-flash-002 gemini-1.5-pro-002 gemma-7b
jamba-1.5-large mathstral-7B
""".split()

root, out = pathlib.Path(sys.argv[1]), sys.argv[2]
questions = {}
for model in MODELS:
    with zipfile.ZipFile(root / "eval_results" / f"model_outputs_{model}_5shots.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".json"))
        answers = json.loads(archive.read(name))
    for answer in (a for a in answers if isinstance(a, dict)):
        options = answer["options"]
        row = questions.setdefault(
            str(answer["question_id"]),
            {
                "id": str(answer["question_id"]),
                "query": answer["question"],
                "task": answer["category"],
                "options": ast.literal_eval(options) if isinstance(options, str) else options,
                "answers": {},
                "truth": answer["answer"],
            },
        )
        row["answers"][model] = answer["pred"]
with open(out, "w", encoding="utf-8", newline="\n") as rows:
    for row in questions.values():
        rows.write(json.dumps(row, ensure_ascii=False) + "\n")
