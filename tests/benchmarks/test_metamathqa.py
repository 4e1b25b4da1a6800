"""PEFT's comparison in a short form: what is an answer, and a whole run on a small model with the same JSON fields."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "metamathqa"
sys.path.insert(0, str(FOLDER))

from answers import accuracy, answer_of, is_right  # noqa: E402

SOLUTIONS = {
    "So the dot product is $4^2 = \\boxed{16}$.The answer is: 16": "16",
    "He has 3 left.\n#### 3": "3",
    "The answer is 12.\n\nQuestion: what else?": "12",
    "The final answer is $5.50.": "5.50",
    "The answer is 1, so double it.\nThe answer is: 50%": "50",
    "I do not know": None,
}


@pytest.mark.parametrize("text", SOLUTIONS)
def test_an_answer_is_what_stands_behind_the_marker(text):
    assert answer_of(text) == SOLUTIONS[text]


def test_answers_are_compared_as_numbers_where_they_are_some():
    assert is_right("The answer is: 0.75", "#### 3/4")
    assert is_right("The answer is: 8 / 2", "#### 4.0")
    assert is_right("The answer is: x+1", "#### x+1")
    assert not is_right("The answer is: 1/0", "#### 1")
    assert not is_right("nothing", "#### 1")
    with pytest.raises(ValueError, match="no answer stands in the expected solution"):
        is_right("The answer is: 1", "it is one")
    assert accuracy(["The answer is: 1", "The answer is: 2"], ["#### 1", "#### 3"]) == 0.5


def _rows(folder):
    train = [
        {
            "type": "GSM_AnsAug",
            "query": f"What is {number} and {number}?",
            "original_question": "What is it?",
            "response": f"It is {2 * number}.\n#### {2 * number}\nThe answer is: {2 * number}",
        }
        for number in range(30)
    ]
    train.append({"type": "long", "query": "word " * 300, "original_question": "", "response": "The answer is: 1"})
    test = [
        {"question": f"What is {n} and 1?", "answer": f"It is <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"} for n in (3, 4)
    ]
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in test))
    return ["--train", str(folder / "train.json"), "--test", str(folder / "test.jsonl")]


def test_a_short_run_leaves_a_result_in_pefts_fields(tmp_path, tiny_model):
    words = ["lora/llama-3.2-3B-rank32-nf4", "--model", str(tiny_model), *_rows(tmp_path), "--out", str(tmp_path)]
    words += ["--steps", "5", "--batch", "2", "--dtype", "float32", "--test-rows", "2"]
    subprocess.run([sys.executable, str(FOLDER / "run.py"), *words], check=True, timeout=500)
    result = json.loads((tmp_path / "lora--llama-3.2-3B-rank32-nf4.json").read_text())
    assert result["run_info"]["error_msg"] == ""
    assert {"created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config"} <= {
        *result["run_info"]
    }
    assert result["run_info"]["train_config"]["dtype"] == "int4"
    assert (result["run_info"]["peft_config"]["r"], result["run_info"]["peft_config"]["lora_alpha"]) == (32, 64)
    trained = result["train_info"]
    assert trained["status"] == "success"
    assert trained["num_trainable_params"] > 0
    last = trained["metrics"][-1]
    assert (last["step"], last["train samples"]) == (5, 10)
    assert 0 <= last["test accuracy"] <= 1
    assert last["train total tokens"] > 100
    assert result["meta_info"]["package_info"]["peft-version"]


def test_an_experiment_that_fails_says_why(tmp_path):
    words = ["lora/llama-3.2-3B-rank32", "--model", str(tmp_path / "none"), *_rows(tmp_path), "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(FOLDER / "run.py"), *words, "--steps", "1"], check=True, timeout=200)
    result = json.loads((tmp_path / "lora--llama-3.2-3B-rank32.json").read_text())
    assert "is no model" in result["run_info"]["error_msg"]
    assert result["train_info"]["status"] == "failed"
