"""What is promised against whoever hands us a file, the test of it, and a fault that breaks it.

docs/threat-model.md has the table, which `make docs` writes; `make broken-promises` plants each
fault in a copy, and its test has to fail there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROMISES", "Promise"]


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        against: Who or what could break it: a row of the page's first table.
        words: What is promised.
        test: The test that holds it, as pytest names it.
        file: Where it is kept.
        kept: The text there that keeps it, which stands there once.
        broken: What stands in its place in the copy.
    """

    against: str
    words: str
    test: str
    file: str
    kept: str
    broken: str


MODEL, DATA, ENGINE = "a model file", "data and documents", "an engine or a passport"
PLACE, USER, LIBRARY = "an output's place", "another user of the machine", "a library"
PACKAGES, CLIENT, HOST = "the packages", "a client of `serve`", "a host of `--hosts`"

PROMISES = (
    # Refused in a sentence, before it costs anything.
    Promise(
        MODEL, "what can't be used ends in one sentence and exit status 2",
        "tests/test_trust.py::test_the_command_ends_with_status_2[nodes.onnx]",
        "src/onnxgraft/cli/_failing.py",
        "        _end(name, str(error), error.exit_status, error, as_json=as_json)",
        "        _end(name, str(error), 1, error, as_json=as_json)",
    ),
    Promise(
        MODEL, "names in it reach the terminal without control codes",
        "tests/validate/test_report.py::"
        "test_control_codes_of_a_strangers_names_do_not_reach_the_terminal",
        "src/onnxgraft/errors.py",
        "    if not text.isprintable():",
        "    if False:",
    ),
    Promise(
        MODEL, "a file beyond its limit is not read",
        "tests/test_trust.py::test_a_file_that_is_too_large_is_not_read[net.caffemodel]",
        "src/onnxgraft/files/limits.py",
        "        if count > self.most:",
        "        if count > self.most << 20:",
    ),
    Promise(
        MODEL, "what its messages cost is counted before they are read, unknown fields too",
        "tests/test_limits.py::test_fields_that_protobuf_does_not_know_cost_their_bytes",
        "src/onnxgraft/files/survey.py",
        "                taken += message.unknown * length\n",
        "",
    ),
    Promise(
        MODEL, "how many inputs and outputs an operator says to have is counted first (TensorFlow)",
        "tests/convert/test_sizes.py::"
        "test_inputs_and_outputs_are_counted_before_tensorflow_makes_them",
        "convert/tensorflow/reading/declared.py",
        "            count += max(_amount(value), ",
        "            count += max(1, ",
    ),
    Promise(
        MODEL, "how many inputs and outputs an operator says to have is counted first (ONNX)",
        "tests/test_limits.py::test_a_node_that_says_to_have_more_than_it_has_is_refused",
        "src/onnxgraft/graph/demands.py",
        "        if said > there and ",
        "        if said < 0 and ",
    ),
    Promise(
        MODEL, "what TensorFlow computes to learn shapes has a limit of memory",
        "tests/run/test_demand.py::"
        "test_what_a_library_reads_can_take_what_its_file_may_become_and_no_more",
        "src/onnxgraft/run/demand.py",
        "(taken + RUNNING_BYTES.most + grown(stored), hard)",
        "(hard, hard)",
    ),
    Promise(
        MODEL, "weights that are shared are no way to more memory than their files have",
        "tests/test_limits.py::test_external_data_that_many_tensors_share_are_refused",
        "src/onnxgraft/graph/external.py",
        "        if self._referred > EXTERNAL_GROWTH.most * size + _FREE:",
        "        if self._referred < 0:",
    ),
    # Nothing in it is executed.
    Promise(
        MODEL, "an operator of TensorFlow's runs if it is in the list of those that compute",
        "tests/convert/test_reaching_out.py::test_an_operator_that_does_more_than_compute_is_refused",
        "convert/tensorflow/reading/operators.py",
        "    if operator in COMPUTING:\n",
        "    if operator:\n",
    ),
    Promise(
        MODEL, "every operator of TensorFlow's registry is in that list, or has a reason",
        "tests/convert/test_reaching_out.py::"
        "test_every_operator_of_tensorflow_is_known_to_compute_or_has_a_reason_against_it",
        "convert/tensorflow/reading/operators.py",
        " Xlog1py Xlogy ZerosLike Zeta ",
        " Xlog1py Xlogy Zeta ",
    ),
    Promise(
        MODEL, "of the graphs of a SavedModel the one that is loaded is looked at",
        "tests/convert/test_formats.py::"
        "test_the_graph_that_is_looked_at_is_the_one_that_tensorflow_loads",
        "convert/tensorflow/reading/functions.py",
        "        if tags in (None, set(meta_graph.meta_info_def.tags)):",
        "        if tags is None:",
    ),
    Promise(
        MODEL, "of a Flex operator the options decide, not the name",
        "tests/convert/test_reaching_out.py::test_what_is_in_the_options_of_a_flex_operator_decides",
        "convert/tflite/reaching.py",
        "                    reason = reason_against(kind)",
        "                    reason = reason_against(lite.custom(operator).removeprefix(FLEX))",
    ),
    Promise(
        MODEL, "restoring a checkpoint does nothing else",
        "tests/convert/test_reaching_out.py::test_a_checkpoint_is_restored_and_nothing_else_is_run",
        "convert/tensorflow/reading/forbidden.py",
        "        if node.op not in _RESTORING:",
        "        if not node.op:",
    ),
    Promise(
        MODEL, "an ONNX operator that is a program is refused",
        "tests/test_trust.py::test_a_hostile_model_is_refused_in_a_sentence",
        "src/onnxgraft/graph/programs.py",
        "    if key in PROGRAMS:",
        "    if key in ():",
    ),
    Promise(
        MODEL, "a Keras layer that brings code runs where it is trusted alone",
        "tests/convert/test_trust_by_name.py::test_without_trust_keras_is_told_to_refuse_too",
        "convert/tensorflow/reading/functions.py",
        "safe_mode=not runs)",
        "safe_mode=False)",
    ),
    Promise(
        MODEL, "`--trust=NAME` trusts what is called so, and nothing else",
        "tests/convert/test_trust_by_name.py::test_who_trusts_one_does_not_trust_the_other",
        "src/onnxgraft/files/trust.py",
        "    return not named.isdisjoint(filter(None, names))",
        "    return bool(named)",
    ),
    Promise(
        MODEL, "a pickle in a `.pt2` makes tensors or is refused",
        "tests/convert/pytorch/test_hostile_programs.py::test_a_hostile_program_is_refused_and_not_run",
        "convert/pytorch/archive.py",
        "    if not data:\n        return\n    try:\n        with zipfile.ZipFile(io.BytesIO(",
        "    if data:\n        return\n    try:\n        with zipfile.ZipFile(io.BytesIO(",
    ),
    # No path in it is followed elsewhere.
    Promise(
        MODEL, "external data that are links are refused",
        "tests/test_trust.py::test_external_data_that_are_links_are_refused",
        "src/onnxgraft/graph/external.py",
        "        if os.path.islink(path):",
        "        if False:",
    ),
    Promise(
        MODEL, "a SavedModel does not lead out of its folder",
        "tests/test_trust.py::test_a_link_out_of_a_saved_model_is_refused",
        "convert/tensorflow/reading/functions.py",
        "        if file.is_symlink() and not file.resolve().is_relative_to(inside):",
        "        if not file.resolve():",
    ),
    Promise(
        MODEL, "HDF5 loads no filter from a library",
        "tests/test_trust.py::test_hdf5_loads_no_filter_from_a_library",
        "convert/tensorflow/reading/functions.py",
        '_NO_PLUGINS = {"HDF5_PLUGIN_PRELOAD": "::"}',
        "_NO_PLUGINS: dict[str, str] = {}",
    ),
    # Libraries.
    Promise(
        LIBRARY, "a crash is a sentence, and leaves nothing half written",
        "tests/sandbox/test_guard.py::test_a_crash_and_a_limit_are_a_sentence[crash",
        "src/onnxgraft/sandbox/guard.py",
        "    raise Killed(watch.reason or _reason(died))",
        "    return 128 + died",
    ),
    Promise(
        LIBRARY, "what ends the process with 0 has not passed: a command hands its status over",
        "tests/sandbox/test_guard.py::test_a_crash_and_a_limit_are_a_sentence[leave",
        "src/onnxgraft/sandbox/guard.py",
        "    handed = watch.handed_over()",
        "    handed = watch.handed_over() or 0",
    ),
    Promise(
        LIBRARY, "what it prints is not in the object of `--json`",
        "tests/cli/test_output.py::test_what_a_library_prints_is_not_in_the_json",
        "src/onnxgraft/cli/_app.py",
        "    os.dup2(2, 1)\n",
        "",
    ),
    Promise(
        LIBRARY, "a command has a limit of memory that nobody asked for",
        "tests/sandbox/test_guard.py::test_a_command_has_a_limit_that_nobody_asked_for",
        "src/onnxgraft/sandbox/guard.py",
        "        if taken <= self._most:",
        "        if self._asked is None or taken <= self._most:",
    ),
    Promise(
        LIBRARY, "a command ends after `--max-seconds`",
        "tests/sandbox/test_guard.py::test_a_crash_and_a_limit_are_a_sentence[sleep",
        "src/onnxgraft/sandbox/guard.py",
        "now - self._started > self._seconds:",
        "now - self._started > 100 * self._seconds:",
    ),
    Promise(
        LIBRARY, "in the sandbox nothing is written but what was named",
        "tests/sandbox/test_guard.py::test_in_the_sandbox_nothing_is_written_but_what_was_named",
        "src/onnxgraft/sandbox/landlock.py",
        "    if version < 1:\n",
        "    if version:\n",
    ),
    Promise(
        LIBRARY, "workers end with the process that started them",
        "tests/sandbox/test_guard.py::test_the_engines_of_bench_end_when_the_watching_process_is_killed",
        "src/onnxgraft/run/workers.py",
        "        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)",
        "        pass",
    ),
    Promise(
        LIBRARY, "the folder of a command that was killed is removed by the next",
        "tests/sandbox/test_guard.py::test_the_next_command_removes_the_folders_of_one_that_was_killed",
        "src/onnxgraft/sandbox/guard.py",
        "                _remove_left_behind(place)",
        "                pass",
    ),
    Promise(
        LIBRARY, "an engine that does not compute what its graph says is not called proven",
        "tests/engine/test_proving.py::test_where_no_form_helps_the_engine_is_not_proven",
        "engine/proving.py",
        '        """Whether the engine computes what its graph says."""\n'
        "        return all(proof.passed for proof in self.proofs)",
        "        return True",
    ),
    Promise(
        LIBRARY, "a candidate that differs from its original ends with exit status 1",
        "tests/cli/test_cli.py::test_a_candidate_that_differs_is_exit_status_1",
        "src/onnxgraft/cli/_app.py",
        "            if status:\n                raise typer.Exit(status)",
        "            if not result:\n                raise typer.Exit(status)",
    ),
    # Data and documents.
    Promise(
        DATA, "arrays of Python objects, which are pickles, are refused",
        "tests/test_trust.py::test_hostile_data_are_refused_in_a_sentence[pickle.npz]",
        "src/onnxgraft/data/arrays.py",
        "    if dtype.hasobject:\n",
        "    if not dtype:\n",
    ),
    Promise(
        DATA, "what the values of JSON take is counted before they are read",
        "tests/test_trust.py::test_hostile_data_are_refused_in_a_sentence[values_ranges.json]",
        "src/onnxgraft/files/reading.py",
        "    if cost > most.most:",
        "    if cost > most.most << 10:",
    ),
    Promise(
        DATA, "TOML that would take minutes is refused before it is parsed",
        "tests/files/test_files.py::"
        "test_tomllib_which_would_take_minutes_for_a_long_key_never_gets_it",
        "src/onnxgraft/files/reading.py",
        '    if text.count(".") >= _DEEPEST and longest_key(text) > _DEEPEST:',
        "    if False:",
    ),
    Promise(
        DATA, "an image is a plain file",
        "tests/test_trust.py::test_an_image_that_is_no_file_is_refused",
        "src/onnxgraft/data/images.py",
        "        if not path.is_file():\n",
        "        if not path.exists():\n",
    ),
    Promise(
        DATA, "a function that a recipe names runs where the command line trusts it alone",
        "tests/commands/test_data_of_python.py::test_a_recipe_that_names_functions_wants_trust",
        "src/onnxgraft/data/functions.py",
        "        if not trusts(trust, self.title,",
        "        if trusts(trust, self.title,",
    ),
    Promise(
        DATA, "in a report whatever comes from a file stays text",
        "tests/validate/test_report.py::test_html_escapes_whatever_comes_from_a_model",
        "validate/views/templates.py",
        "autoescape=True",
        "autoescape=False",
    ),
    # Engines.
    Promise(
        ENGINE, "an engine is the file that its passport describes, or is not loaded",
        "tests/engine/test_engines.py::test_an_engine_that_is_not_its_passports_is_not_loaded",
        "engine/passport.py",
        "    if sha256(file) != passport.engine:",
        "    if not passport.engine:",
    ),
    Promise(
        ENGINE, "a bundle's member that says to be longer than the bundle is not read",
        "tests/engine/test_bundle.py::"
        "test_a_member_that_says_to_be_longer_than_the_bundle_is_refused_before_it_is_read",
        "engine/tensorrt/bundle_main.py",
        "    if entry.header_offset + entry.compress_size > archive.start_dir:",
        "    if False:",
    ),
    Promise(
        ENGINE, "an engine without a passport is loaded where it is trusted alone",
        "tests/engine/test_engines.py::test_an_engine_without_a_passport_is_not_loaded",
        "engine/loading.py",
        "    if trust and not passport_path(file).exists():",
        "    if not passport_path(file).exists():",
    ),
    # Where things are written.
    Promise(
        PLACE, "what was there stays until the new file is whole",
        "tests/files/test_files.py::test_atomic_keeps_the_target_untouched_until_the_block_ends",
        "src/onnxgraft/files/writing.py",
        "            made.append(Path(name))\n",
        "            made.append(target)\n",
    ),
    Promise(
        PLACE, "an error leaves no temporary file",
        "tests/files/test_files.py::test_an_exception_leaves_the_old_file_and_no_temporary",
        "src/onnxgraft/files/writing.py",
        "                temporary.unlink(missing_ok=True)\n",
        "                pass\n",
    ),
    Promise(
        PLACE, "of files that belong together none is read while they are half in place",
        "tests/files/test_locks.py::"
        "test_files_that_are_half_in_place_are_refused_until_a_run_finishes_that",
        "src/onnxgraft/files/reading.py",
        "    check_settled(found)\n",
        "",
    ),
    Promise(
        PLACE, "a device, a FIFO or a socket is never replaced",
        "tests/files/test_regular.py::test_what_is_no_file_is_refused_and_stays",
        "src/onnxgraft/files/regular.py",
        "    if what:\n",
        "    if not what:\n        pass\n    elif not link and False:\n",
    ),
    Promise(
        PLACE, "a file of another kind is replaced with `--force` alone",
        "tests/commands/test_outputs.py::test_a_file_is_replaced_by_its_own_kind_alone",
        "src/onnxgraft/commands/_outputs.py",
        "    if found != kind:\n",
        "    if not found and kind:\n",
    ),
    Promise(
        USER, "a link of another user's is not followed to where something is written",
        "tests/files/test_regular.py::test_a_strangers_link_is_refused_and_ones_own_is_taken",
        "src/onnxgraft/files/regular.py",
        "    if link and {own.st_uid, found.st_uid} != {_user()}:",
        "    if link and not own:",
    ),
    Promise(
        USER, "two commands do not write to one place",
        "tests/files/test_locks.py::test_a_place_that_another_process_writes_is_refused_at_once",
        "src/onnxgraft/files/locks.py",
        "    if fcntl is None:\n",
        "    if fcntl is not None:\n",
    ),
    # Over HTTP.
    Promise(
        CLIENT, "a request beyond its limit is not read",
        "tests/commands/test_serve.py::test_a_request_that_is_too_large_is_refused[chunked]",
        "src/onnxgraft/commands/_serve_app.py",
        "            if size > service.most:",
        "            if size > service.most << 20:",
    ),
    Promise(
        CLIENT, "requests that are under way hold no more together than eight of the largest",
        "tests/commands/test_serve.py::"
        "test_requests_under_way_hold_no_more_together_than_a_few_of_the_largest",
        "src/onnxgraft/commands/_serve_app.py",
        "                service.held += len(part)",
        "                service.held += 0",
    ),
    Promise(
        CLIENT, "pictures of some bytes feed no more than tensors may",
        "tests/commands/test_serve.py::"
        "test_pictures_of_some_bytes_feed_no_more_than_tensors_may",
        "src/onnxgraft/commands/_served.py",
        "free and count > 1 and count * pixels.nbytes > most",
        "free and count < 1 and count * pixels.nbytes > most",
    ),
    Promise(
        CLIENT, "what the JSON of a request becomes is counted before it is read",
        "tests/run/test_v2.py::test_what_is_beyond_all_measure_is_a_sentence[objects]",
        "src/onnxgraft/run/v2.py",
        "        check_json(text, REQUEST_MEMORY)",
        "        check_json(b'', REQUEST_MEMORY)",
    ),
    Promise(
        CLIENT, "a client is told no path of the machine",
        "tests/commands/test_serve.py::test_a_client_is_told_no_path_of_the_machine",
        "src/onnxgraft/commands/_serve_app.py",
        """400, "the engine can't run what was sent; the server's log says why\"""",
        "400, str(error)",
    ),
    Promise(
        CLIENT, "other machines reach a server where `--host` says so alone",
        "tests/commands/test_serve.py::test_a_server_listens_where_other_machines_do_not_reach_it",
        "src/onnxgraft/commands/_serve.py",
        '*,\n    host: str = "127.0.0.1",',
        '*,\n    host: str = "0.0.0.0",',
    ),
    Promise(
        CLIENT, "in the sandbox a server listens on its port and no other",
        "tests/sandbox/test_guard.py::"
        "test_in_the_sandbox_the_port_that_was_named_may_be_listened_on_and_no_other",
        "src/onnxgraft/sandbox/landlock.py",
        "_BIND | _CONNECT if version",
        "_CONNECT if version",
    ),
    # Read as what they say.
    Promise(
        MODEL, "an ONNX file is read as what it says, node by node, or is refused",
        "tests/graph/test_kept.py::test_a_file_that_is_read_otherwise_is_refused[small]",
        "src/onnxgraft/graph/model.py",
        "        if other is not None:",
        "        if False:",
    ),
    Promise(
        DATA, "samples of an `.npz` are what their checksum says",
        "tests/data/test_samples.py::"
        "test_an_npz_that_is_not_packed_is_held_against_its_checksum",
        "src/onnxgraft/data/npz.py",
        "            while whole.read(1 << 24):  # whose end is checked by the checksum",
        "            while False:",
    ),
    # Other machines.
    Promise(
        HOST, "no name of a host is an option of ssh, or a command",
        "tests/commands/test_hosts.py::"
        "test_what_could_be_an_option_or_a_command_is_no_host[-p]",
        "src/onnxgraft/commands/_hosts.py",
        """_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\"""",
        """_NAME = r"[^@:]+\"""",
    ),
    Promise(
        HOST, "what it says is short, and read in a time and a size that are limited",
        "tests/commands/test_hosts.py::test_a_host_that_lies_is_one_row[error]",
        "src/onnxgraft/commands/_hosts.py",
        "    return printable(str(text), _SENTENCE).strip()",
        "    return str(text)",
    ),
    Promise(
        HOST, "nothing of what it was given stays there",
        "tests/commands/test_hosts.py::test_a_right_engine_passes_on_hosts",
        "src/onnxgraft/commands/_on_host.py",
        'tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder',
        "contextlib.nullcontext(tempfile.mkdtemp()) as folder",
    ),
    # Packages.
    Promise(
        PACKAGES, "`make` installs what is pinned by its SHA-256 alone",
        "tests/test_supply_chain.py::test_make_installs_by_hash_alone",
        "Makefile",
        "--require-hashes --no-deps --requirement constraints.txt",
        "--no-deps --requirement constraints.txt",
    ),
    Promise(
        PACKAGES, "no library speaks to another machine",
        "tests/test_trust.py::test_no_library_opens_a_socket_to_another_machine",
        "engine/devices.py",
        "        sys.modules[name] = None  # type: ignore[assignment]",
        "        pass",
    ),
)  # fmt: skip
