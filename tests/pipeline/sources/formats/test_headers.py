"""A header is found, and its names made unique, in time with its width."""

import time

from pipeline.sources.formats import headers


def test_names_that_are_there_already_are_passed_over():
    cells = ["a", "a", "a_2", "a", "", "column_5", None]
    assert headers.unique_names(cells) == [
        "a", "a_2", "a_2_2", "a_3", "column_5", "column_5_2", "column_7"
    ]  # fmt: skip


def test_many_equal_names_take_time_with_their_number():
    began = time.thread_time()
    names = headers.unique_names(["x"] * 200_000)
    assert names[-1] == "x_200000" and len(set(names)) == len(names)
    assert time.thread_time() - began < 5


def test_a_sheet_of_texts_is_searched_up_to_a_number_of_them(monkeypatch):
    header = ["Voltage(V)", "Current(A)", "Date_Time"]
    tall = [["note"] * 3] * 150 + [header]
    assert headers.find_header(tall) == 150
    assert headers.find_header([["note"] * 100_000, header]) is None
    looked = []
    monkeypatch.setattr(headers, "meaning", looked.append)
    headers.find_header([[f"text {row}"] * 2_000 for row in range(200)])
    assert len(looked) == headers.SEARCHED_TEXTS  # of 400,000
