from tasks.jobs import routing


def test_each_gpu_has_a_queue_of_its_own() -> None:
    queues = {routing.gpu_queue(host, index) for host in ("a", "b") for index in (0, 1)}
    assert len(queues) == 4
    assert routing.model_queue("u2netp") == "model.u2netp"
