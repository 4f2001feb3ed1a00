"""Trials of evaluators on a device that is not the CPU: tests of their own modules again, on one that only pretends."""

from __future__ import annotations

import pytest

from tests.unit.evaluate import (
    test_classification,
    test_fidelity,
    test_inherited_export,
    test_measuring,
    test_proxies,
    test_texts,
    test_training,
)

pytestmark = pytest.mark.usefixtures("elsewhere")
folder = test_texts.folder

test_training_resumes = test_training.test_with_everything_on_a_released_trial_resumes_to_the_bit
test_digits_are_learned = test_classification.test_it_learns_digits_and_reports_each_epoch
test_digits_resume = test_classification.test_a_released_trial_resumes_to_the_bit
test_fidelities_go_on = test_fidelity.test_training_on_gives_the_same_bits_as_training_at_once
test_texts_are_learned = test_texts.test_a_classifier_learns_the_words
test_texts_resume = test_texts.test_a_released_trial_resumes_to_the_bit
test_language_is_learned = test_texts.test_a_language_model_learns_and_tells_its_perplexity
test_proxies_score = test_proxies.test_a_trial_scores_a_list_in_its_order
test_costs_are_measured = test_measuring.test_an_objective_that_names_a_cost_has_it_measured
test_inherited_weights_are_exported = test_inherited_export.test_the_exported_network_is_the_one_that_was_evaluated
