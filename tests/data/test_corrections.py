"""The answers of a review: no row is lost, mixed or doubled, whatever edits or kills the file."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from neither.data.corrections import (
    DROPPED,
    RANDOM_SAMPLE,
    UNDONE,
    Answer,
    AnswerFile,
    apply_answers,
    read_answers,
)
from neither.runtime.errors import DataError, UsageError, UserError
from records import make_table

CLASSES = ("dog", "human")
HEADER = "sha256,path,old_label,new_label,queue,when"


def answer(number: int, new: str, queue: str = "label issues", path: str = "dog/a.jpg") -> Answer:
    return Answer(f"{number:064x}", path, "dog", new, queue)


def add(path: Path, *answers: Answer) -> None:
    AnswerFile(path, CLASSES).append(answers)


def labels(path: Path) -> dict[int, str]:
    """Return the new label of each image by its number."""
    answers = read_answers(path, CLASSES, {"hund": "dog"})
    return {int(sha256, 16): each.new_label for sha256, each in answers.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corrections.csv"


def test_the_last_answer_counts_and_none_is_repeated(path: Path) -> None:
    add(path, answer(1, "human"), answer(2, DROPPED), answer(3, "dog", path="=a\nb.jpg"))
    for _ in range(2):
        add(path, answer(1, "dog"), answer(3, UNDONE), answer(4, UNDONE))
    assert labels(path) == {1: "dog", 2: DROPPED}
    lines = path.read_text().splitlines()
    assert lines[0] == HEADER
    assert [line.split(",")[3] for line in lines[1:]] == ["human", DROPPED, "dog", "dog", UNDONE]
    assert lines[3].split(",")[1] == r"./=a\nb.jpg"  # one line, and no formula
    assert not read_answers(path, CLASSES, {})[f"{1:064x}"].is_change


def test_a_row_that_is_cut_is_ignored_and_written_again(path: Path, tmp_path: Path) -> None:
    add(path, answer(1, "human"), answer(2, "human", path='dog/"\u00e9, x".jpg'))
    whole = path.read_bytes()
    kept = whole[: whole[:-1].rindex(b"\n") + 1]
    for end in range(0, len(whole), 3):
        cut = tmp_path / "cut.csv"
        cut.write_bytes(whole[:end])
        is_second = end > whole.rindex(b",") + 1  # all that counts is there
        expected = {1: "human"} if end >= len(kept) - 20 else {}
        assert labels(cut) == expected | ({2: "human"} if is_second else {}), end
        add(cut, answer(1, "human"), answer(2, "human"))
        assert labels(cut) == {1: "human", 2: "human"}
        assert len(cut.read_bytes().splitlines()) == 3


def test_a_spreadsheet_may_save_the_file_and_rows_are_added_in_its_form(path: Path) -> None:
    lines = ["queue;note;new_label;sha256;path;old_label;when", f"x;;Human;{1:064X};a;dog;1.2.26"]
    text = "\r\n".join(["sep=;", lines[0], lines[1].replace("Human", "human"), ";;;;;;"])
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # no line end after the last row
    add(path, answer(2, "dog"))
    assert labels(path) == {1: "human", 2: "dog"}
    assert path.read_bytes().startswith(b"\xef\xbb\xbfsep=;\r\nqueue;note")
    path.write_text(path.read_text("utf-8-sig").replace("human", "hund"), "utf-16")
    assert labels(path)[1] == "dog"  # an alias
    path.write_text(path.read_text("utf-16").replace("hund", "human"), "utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        add(path, answer(3, "dog"))


def test_a_process_that_reads_again_finds_what_others_have_written(path: Path) -> None:
    file = AnswerFile(path, CLASSES)
    assert not file.read()
    row = f"{5:064x},a,dog,human,x,y\n"
    for step in (
        lambda: add(path, answer(1, "human"), answer(2, "dog")),
        lambda: file.append([answer(3, "dog"), answer(1, UNDONE)]),
        lambda: add(path, answer(2, "human"), answer(3, UNDONE)),
        lambda: path.write_text("sep=;\n" + path.read_text().replace(",", ";")),
        lambda: add(path, answer(4, "human")),
        lambda: path.write_text(f"{HEADER}\n{row}"),
    ):
        step()
        assert file.read() == read_answers(path, CLASSES, {})
    path.write_text(f"{HEADER}\n{2 * row}{row.replace('human', 'cat')}")
    with pytest.raises(DataError, match=":4: new_label cat"):
        file.read()
    path.write_text(f"{HEADER}\n{row}")
    assert len(file.read()) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("path,label\na,dog\n", f"want a first line with the columns {HEADER}; got path,label"),
        ("my notes", f"want a first line with the columns {HEADER}; got my notes"),
        (f"{HEADER}\n{1:064x},a,dog,Dogs,x,y\n", "2: new_label Dogs: no class .* mean dog"),
        (f"{HEADER}\n{1:064x},a,dog,,x,y\n", r"2: new_label \(empty\): no class has this name"),
        (f"{HEADER}\n12,a,dog,dog,x,y\n", "2: sha256 12, want 64 hexadecimal digits"),
        (f"{HEADER}\n{1:064x},dog\n{2:064x},a,dog,dog,x,y\n", "2: 2 cells, want 6"),
    ],
)
def test_a_malformed_file_is_one_line_and_stays_as_it_is(
    path: Path, content: str, problem: str
) -> None:
    path.write_text(content)
    for use in (labels, lambda path: add(path, answer(1, "dog"))):
        with pytest.raises(DataError, match=problem) as caught:
            use(path)
        assert "\n" not in str(caught.value)
    assert path.read_text() == content


def test_without_a_file_there_are_no_answers_but_a_named_one_must_exist(path: Path) -> None:
    assert not read_answers(None, CLASSES, {})
    with pytest.raises(UsageError):
        read_answers(path, CLASSES, {})


def test_reviewers_at_the_same_time_mix_no_rows(path: Path) -> None:
    def review(reviewer: int) -> None:
        for number in range(20):
            add(path, answer(100 * reviewer + number, "human", path="x" * 3000))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    assert len(labels(path)) == 80
    assert path.read_text().count(HEADER) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_answers_of_val_and_test_count_from_the_random_sample_or_if_all_were_reviewed(
    split: str,
) -> None:
    def corrected(*answers: Answer) -> tuple[list[str], list[int]]:
        table = make_table(["dog/a", "dog/b", "dog/c", "dog/d"])
        hashes = [f"{number:064x}" for number in range(4)]
        dropped = apply_answers(
            table, hashes, ["train", split, split, ""], {each.sha256: each for each in answers}
        )
        return table.labels, dropped

    doubted = [answer(number, "human") for number in range(4)]
    assert corrected(*doubted[:2], doubted[3])[0] == ["human", "dog", "dog", "human"]
    assert corrected(*doubted)[0] == ["human"] * 4
    assert corrected(doubted[1], answer(2, "dog"))[0] == ["dog", "human", "dog", "dog"]
    sampled = replace(doubted[1], queue=RANDOM_SAMPLE)
    assert corrected(sampled)[0] == ["dog", "human", "dog", "dog"]
    assert corrected(answer(1, DROPPED), answer(0, DROPPED))[1] == [0]
    with pytest.raises(UserError, match="none of 1 corrections is about the images of photos"):
        corrected(answer(9, "human"))
