"""The tables of savings, order and overlap, from figures worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from sparsing.measuring.rule_order import RuleOverlap, order_rules
from sparsing.measuring.savings import Savings
from sparsing.report import order_tables, savings_tables


def test_the_order_names_the_difference_to_the_first_and_the_probability_of_the_next():
    first, second = np.linspace(0.30, 0.34, 101), np.linspace(0.33, 0.37, 101)
    header, rows = order_tables.order(
        order_rules("activation ratio", 1.01, {"b": 0.35, "a": 0.32}, {"a": first, "b": second}, 1e6)
    )
    assert header[1:3] == ["rule", "activation ratio"]
    assert rows == [["1", "a", "32.00%", "-", "100.0%"], ["2", "b", "35.00%", "[3.00%, 3.00%]", "-"]]


def test_all_orders_have_a_row_each_in_the_terminal():
    values = {"a": np.linspace(0.30, 0.34, 101), "b": np.linspace(0.31, 0.35, 101)}
    one = order_rules("activation ratio", 1.05, {"b": 0.33, "a": 0.32}, values, 1e6)
    other = dataclasses.replace(one, target_ppl_ratio=None, target_score_drop=0.01)
    assert order_tables.orders([one, other]) == (
        ["at", "by", "order"],
        [
            ["PPL-5%", "activation ratio", "a 32.00% < (100%) b 33.00%"],
            ["a score 1 point below dense", "activation ratio", "a 32.00% < (100%) b 33.00%"],
        ],
    )


def test_bytes_are_in_megabytes_and_pairs_on_other_sites_have_no_overlap():
    values = {"a": np.array([2e6, 4e6]), "b": np.array([3e6, 3e6])}
    _, rows = order_tables.order(
        order_rules("bytes, active neurons known", 1.01, {"a": 2.5e6, "b": 3e6}, values, 1e6)
    )
    assert [row[2] for row in rows] == ["2.50 MB", "3.00 MB"]
    assert rows[0][4] == "50.0%"
    made = RuleOverlap(
        target_ppl_ratio=1.01, rules=("a", "b"), jaccard=np.array([[1.0, np.nan], [np.nan, 1.0]])
    )
    assert order_tables.overlap(made) == (["rule", "a", "b"], [["a", "100%", "-"], ["b", "-", "100%"]])


def test_weights_groups_and_unions():
    savings = Savings(
        counting_rule="",
        dense_parameters=1_000_000,
        dense_bytes=2_000_000,
        neuron_parameters=np.array([300_000.0]),
        neuron_bytes=np.array([600_000.0]),
        after_score=np.array([1 / 3]),
        activation_ratio=np.array([0.25]),
        num_tokens=10,
        group_ratio=np.array([[0.25, 0.5, 0.6, 0.8, 1.0, 1.0]]),
        sorted_group_ratio=np.array([[0.25, 0.3, 0.4, 0.5, 0.6, 1.0]]),
        union_ratio=np.array([[0.25, 0.4, 0.5, 0.55, 0.7]]),
        neighbour_jaccard=np.array([0.25]),
    )
    _, rows = savings_tables.weights(savings)
    assert rows == [
        ["dense", "1,000,000", "2.00 MB", "1.00"],
        ["score computed first", "925,000", "1.85 MB", "1.08"],  # 1e6 - 0.75 * 3e5 / 3
        ["active neurons known", "775,000", "1.55 MB", "1.29"],
    ]
    assert savings_tables.groups(savings)[1][1] == ["8", "50.0%", "30.0%", "1.70 MB", "1.58 MB"]
    assert savings_tables.unions(savings)[1][1] == ["2", "40.0%", "1.64 MB"]
