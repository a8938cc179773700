import toy


def test_a_trial_is_evaluated_at_halves_and_at_its_end() -> None:
    assert toy.make_plan(epochs=4.0, rungs=2).milestones == (1.0, 2.0, 4.0)
    assert toy.make_plan(epochs=3.0, rungs=0).milestones == (3.0,)


def test_the_smallest_model_keeps_the_least_of_every_group() -> None:
    assert toy.make_plan().smallest() == toy.price({"a": 4, "b": 6, "c": 12})
