# SPDX-License-Identifier: Apache-2.0
"""Hostile guests: each gets its status and loses its instance; neighbours' calls go on unharmed."""

import os
import struct
import threading
import zlib

import harness
import wire

PAGE = 4096
PORTS = 65536


class Hostile(harness.DaemonTest):
    images = ("hostile", "echo")

    def setUp(self):
        self.connection = self.connect()

    def tearDown(self):
        """Whatever a test did, a neighbour is served by the same worker, and the image too."""
        payload = os.urandom(100)
        self.assertEqual(self.connection.invoke("echo", "echo", payload), payload)
        self.assertEqual(self.connection.invoke("hostile", "many_pages", ("u32", 10)), 1)

    def hostile(self, function, *arguments, deadline=20):
        return self.connection.invoke("hostile", function, *arguments, deadline=deadline)

    def faults(self, function, *arguments, vector=None):
        """Returns the GuestFault of a call that must end as ABORTED."""
        with self.assertRaises(wire.StatusError) as caught:
            self.hostile(function, *arguments)
        error = caught.exception
        self.assertEqual(error.name, "ABORTED", error.message)
        self.assertNotEqual(error.message, "")
        fault = error.details.get("GuestFault")
        self.assertIsNotNone(fault, "no GuestFault among the details")
        if vector is not None:
            self.assertEqual(fault["vector"], vector, fault)
        return fault

    def harmless(self, function, *arguments):
        """Any answer but one that says that hld itself is at a loss."""
        try:
            return self.hostile(function, *arguments)
        except wire.StatusError as error:
            self.assertIn(error.name, ("ABORTED", "DEADLINE_EXCEEDED"), error.message)
            return error

    def test_instance_is_destroyed(self):
        before = self.stats(self.connection)["counters"]["instances_destroyed"]
        for _ in range(3):
            self.faults("null_write")
        harness.wait_until(lambda: self.stats(self.connection)["counters"]["instances_destroyed"]
                           >= before + 3, "three instances to be destroyed")

    def test_null_write(self):
        fault = self.faults("null_write", vector=14)
        self.assertEqual(fault["address"], 0)
        self.assertIn("null_write", fault["symbol"])
        self.assertNotEqual(fault["rip"], 0)

    def test_code_write(self):
        self.assertIn("code_write", self.faults("code_write", vector=14)["symbol"])

    def test_execution_of_what_is_not_code(self):
        for function in ("data_execute", "stack_execute", "window_execute"):
            with self.subTest(function):
                self.faults(function, vector=14)

    def test_stack_overflow(self):
        self.faults("stack_overflow", vector=14)

    def test_processor_exceptions(self):
        for function, vector in (("undefined_instruction", 6), ("divide_by_zero", 0),
                                 ("breakpoint", 3)):
            with self.subTest(function):
                self.assertIn(function, self.faults(function, vector=vector)["symbol"])

    def test_addresses_that_are_not_the_guests(self):
        """The machine's own tables, the end of memory, the kernel's half, no canonical address."""
        for address in (PAGE, 0x2000, 0xff000, 64 << 20, 1 << 40, 0xffff800000000000,
                        0x800000000000, (1 << 64) - 1):
            for function in ("address_read", "address_write", "address_jump"):
                with self.subTest(function=function, address=hex(address)):
                    self.faults(function, ("u64", address))

    def test_pages_of_the_machine_are_read_only(self):
        for address in (0x100000, 0x101000):
            with self.subTest(hex(address)):
                self.faults("address_write", ("u64", address), vector=14)

    def test_privileged_instructions(self):
        """None gets through: each faults, or does as much as nothing."""
        allowed = []
        for index in range(self.hostile("privileged_count")):
            name = self.hostile("privileged_name", ("u32", index))
            with self.subTest(name):
                answer = self.harmless("privileged", ("u32", index))
                if not isinstance(answer, wire.StatusError):
                    allowed.append(name)
        # what returns is what ring 3 may do anywhere, or what the processor answers with nothing
        for name in allowed:
            self.assertFalse(name.startswith(("mov_to_cr", "wrmsr", "lgdt", "lidt", "ltr", "hlt",
                                              "cli", "invd", "iretq", "lretq", "xsetbv")), name)

    def test_out_to_every_port(self):
        """With wild registers, by all widths; a port is a hypercall, a fault, or not there."""
        ports = list(range(0, 1024)) + list(range(1024, PORTS, 997)) + [PORTS - 1]
        if harness.SANITIZED or self.daemon.backend == "process":
            ports = ports[::16]
        for number, port in enumerate(ports):
            wild = struct.unpack("<QQ", os.urandom(16))
            self.harmless("port_out", ("u32", port), ("u32", (1, 2, 4)[number % 3]),
                          ("u64", wild[0]), ("u64", wild[1]))
            if number % 8 == 0:
                self.harmless("port_in", ("u32", port), ("u32", (1, 2, 4)[number % 3]),
                              ("u64", wild[0]))
                self.harmless("port_string", ("u32", port), ("bool", number % 16 == 0),
                              ("u64", 1000), ("u64", 0x200000), ("u64", wild[0]))

    def test_exit(self):
        for function, arguments, words in (("exit_now", (("i32", 3),), "3"),
                                           ("exit_raw", (("i32", 0),), "exit"),
                                           ("abort_now", (), "")):
            with self.subTest(function):
                error = self.harmless(function, *arguments)
                self.assertEqual(error.name, "ABORTED")
                self.assertIn(words, error.message)

    def test_malloc_until_it_fails(self):
        answer = self.hostile("allocate_forever", deadline=60)
        self.assertEqual(answer["code"], 12)
        self.assertGreater(self.hostile("map_forever"), 0)

    def test_results_that_lie(self):
        for function in ("result_huge", "result_outside", "result_wraps"):
            with self.subTest(function):
                self.faults(function)
        for function in ("result_not_utf8", "result_too_large"):
            with self.subTest(function):
                answer = self.harmless(function)
                if not isinstance(answer, wire.StatusError):
                    self.assertNotEqual(answer["code"], 0)  # the library's own refusal

    def test_results_of_raw_bytes(self):
        """struct hl_abi_result by hand: every field wrong in turn."""
        def result(magic=0x53524c48, error=0, kind=3, length=0, bits=0, code=0, text_len=0, text=0):
            return struct.pack("<IIIIQiIQ", magic, error, kind, length, bits, code, text_len, text)

        good = result(kind=1, bits=7)
        self.assertEqual(self.hostile("raw_i32", good, ("u64", 4096), ("u64", 4096)), 7)
        for name, raw, announced in (
                ("magic", result(magic=0, kind=1), 4096), ("type", result(kind=2), 4096),
                ("void", result(kind=0), 4096), ("unknown type", result(kind=77), 4096),
                ("error 2", result(error=2, kind=1), 4096),
                ("text past the end", result(error=1, text_len=100, text=1 << 20), 4096),
                ("text that wraps", result(error=1, text_len=100, text=(1 << 64) - 8), 4096),
                ("long text", result(error=1, text_len=1 << 30, text=0), 4096),
                ("unaligned", good, 4097), ("past the end", good, 1 << 20),
                ("across the end", good, (1 << 20) - 16), ("wraps", good, (1 << 64) - 8)):
            with self.subTest(name):
                self.faults("raw_i32", raw, ("u64", 4096), ("u64", announced))
        for bits in (2, 255, 1 << 40):
            with self.subTest(bool=bits):
                self.harmless("raw_bool", result(kind=7, bits=bits), ("u64", 4096), ("u64", 4096))

    def test_scribbling(self):
        """Over the library's own data and over the whole window, the call itself included."""
        for function in ("scribble_runtime", "scribble_window"):
            with self.subTest(function):
                self.harmless(function)

    def test_hypercalls_that_do_not_exist(self):
        for code in (0, 1, 5, 99, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
            for word in (0, 0x200000, (1 << 64) - 1):
                self.harmless("hypercall", *(("u64", n) for n in (code, word, word, word)))

    def test_hypercalls_with_wild_addresses(self):
        for code in (2, 3, 4):
            for a, b, c in ((0, 0, 1 << 40), (1, (1 << 64) - 4096, 4096), (7, 1 << 20, 1 << 32),
                            (2, 0x1000, 4096), ((1 << 64) - 1, 0, 0), (1, 64 << 20, 1)):
                self.harmless("hypercall", *(("u64", n) for n in (code, a, b, c)))

    def test_hypercall_page_from_the_middle(self):
        for offset in list(range(0, 64)) + [128, 256, 4000, 4095]:
            self.harmless("hypercall_into", ("u64", offset), ("u64", 0), ("u64", 2))

    def test_system_calls(self):
        for argument in (0, 1, PAGE, 0x200000, (1 << 63) - 1, (1 << 64) - 1):
            with self.subTest(argument):
                self.harmless("system_call_flood", ("u64", argument))
        self.assertEqual(self.hostile("system_call_wild_numbers"), 0)

    def test_no_way_to_the_host(self):
        """Files, sockets, processes: not refused by permission, but not there."""
        for name, number in (("open", 2), ("openat", 257), ("socket", 41), ("fork", 57),
                             ("execve", 59), ("clone", 56), ("ptrace", 101), ("connect", 42),
                             ("io_uring_setup", 425), ("bpf", 321), ("mount", 165)):
            with self.subTest(name):
                answer = self.hostile("system_call", *[("u64", n) for n in
                                                       (number, 0, 0, 0, 0, 0, 0)])
                self.assertIn(answer, (-2, -38))  # ENOENT, ENOSYS

    def test_system_calls_in_strange_places(self):
        for stack in (0, 8, 0xffff800000000000, 0x7fffffffffff):
            self.harmless("system_call_wild_stack", ("u64", stack))
        for address in (0x100000, 0x1ffffe, 0x3ffffe, (64 << 20) - 2, 0x7fffffffeffe):
            self.harmless("system_call_at", ("u64", address))

    def test_mappings(self):
        self.faults("protect_and_write", vector=14)
        for function in ("unmap", "protect"):
            for address, length in ((0, 1 << 63), (0x100000, PAGE), (0x200000, 1 << 20),
                                    (0x400000, 1 << 20), (PAGE, PAGE), ((1 << 64) - PAGE, PAGE)):
                arguments = [("u64", address), ("u64", length)]
                if function == "protect":
                    arguments.append(("i32", 7))
                with self.subTest(function=function, address=hex(address)):
                    self.harmless(function, *arguments)

    def test_executable_memory_is_refused(self):
        """An errno, not 0: there is no memory that is written and then run."""
        self.assertNotEqual(self.hostile("write_and_execute"), 0)

    def test_flags_do_not_stay(self):
        """Direction, alignment check, trap and identification flags end with their call."""
        clean = self.hostile("flags")
        for bits in (1 << 10, 1 << 18, 1 << 21, 1 << 8, 1 << 14, (1 << 10 | 1 << 18 | 1 << 21)):
            with self.subTest(hex(bits)):
                self.harmless("flags_leave", ("u64", bits))
                for _ in range(4):
                    self.assertEqual(self.hostile("flags"), clean)

    def test_segment_bases_do_not_stay(self):
        for function in ("fs_base_write", "gs_base_write"):
            for base in (0, 0x41414141, (1 << 47) - 1, 0xffff800000000000):
                self.harmless(function, ("u64", base))
        self.assertEqual(self.hostile("many_pages", ("u32", 4)), 1)

    def test_logs_are_bounded(self):
        for function in ("log_flood", "print_flood"):
            self.harmless(function, ("u32", 5000))
        log = self.connection.call("Inspect", {"name": "hostile"})["log"]
        self.assertLess(sum(len(line) for line in log), 1 << 20)

    def test_waiting_is_no_way_to_stay(self):
        """nanosleep is not there; a guest that waits does so on its own time."""
        self.assertNotEqual(self.hostile("sleepy", ("u32", 5)), 0)
        self.assertGreater(self.hostile("spin_ms", ("u32", 20)), 0)

    def test_memory_is_as_new_however_much_was_written(self):
        for count in (1, 100, 2000, 4096, 1, 50):
            self.assertEqual(self.hostile("many_pages", ("u32", count)), 1)

    def test_neighbours_during_faults(self):
        """A hundred faults on one connection, echoes on another at the same time."""
        wrong = []
        ending = threading.Event()

        def neighbour():
            with self.daemon.connect() as connection:
                while not ending.is_set():
                    payload = os.urandom(64)
                    try:
                        if connection.invoke("echo", "echo", payload) != payload:
                            wrong.append("other bytes")
                    except Exception as error:  # pylint: disable=broad-except
                        wrong.append(error)
                        return

        thread = threading.Thread(target=neighbour)
        thread.start()
        try:
            for i in range(100):
                self.faults(("null_write", "undefined_instruction", "stack_execute")[i % 3])
        finally:
            ending.set()
            thread.join()
        self.assertEqual(wrong, [])


class Secrets(harness.DaemonTest):
    """One call leaves a secret in all memory and every register; the next looks for it."""

    images = ("secrets", "secrets_fsgsbase", "echo")
    ROUNDS = 12 if harness.SANITIZED else 40

    FOUND = {1: "registers", 2: "vectors", 4: "control", 8: "program", 16: "window", 32: "heap",
             64: "stack", 128: "new mapping", 256: "new heap"}

    def look(self, connection, image, masked, function="secret_find"):
        where = connection.invoke(image, function, masked, deadline=60)
        self.assertIsInstance(where, int, where)
        return [name for bit, name in self.FOUND.items() if where & bit]

    def rounds(self, image, leavers=1):
        with self.connect() as connection:
            self.look(connection, image, bytes(32))  # warm
            for _ in range(self.ROUNDS):
                masked = os.urandom(32)
                for _ in range(leavers):
                    left = connection.invoke(image, "secret_leave", masked, deadline=60)
                    self.assertIsInstance(left, int, left)
                self.assertEqual(self.look(connection, image, masked), [])

    def test_secrets_are_never_found(self):
        self.rounds("secrets")

    def test_secrets_in_segment_bases_are_never_found(self):
        with self.connect() as connection:
            try:
                connection.invoke("secrets_fsgsbase", "secret_find", bytes(32), deadline=60)
            except wire.StatusError as error:
                self.skipTest(f"no FSGSBASE in a guest here: {error.message}")
        self.rounds("secrets_fsgsbase", leavers=2)

    def test_search_finds_what_is_there(self):
        """The search itself works: what the call brings along, unmasked, stands in the window."""
        with self.connect() as connection:
            secret = os.urandom(32)
            argument = bytes(byte ^ 0x5a for byte in secret) + secret
            where = self.look(connection, "secrets", argument)
            self.assertIn("window", where)

    def test_another_image_does_not_find_them_either(self):
        """The same machines serve both images in turn."""
        with self.connect() as connection:
            for _ in range(self.ROUNDS // 2):
                masked = os.urandom(32)
                connection.invoke("secrets", "secret_leave", masked, deadline=60)
                self.assertEqual(self.look(connection, "secrets_fsgsbase", masked), [])

    def test_secrets_after_a_fault(self):
        """An instance that faulted is not reused; what came after it has nothing of it."""
        with self.connect() as connection:
            connection.register("hostile", harness.read_guest("hostile"))
            for _ in range(4):
                masked = os.urandom(32)
                connection.invoke("secrets", "secret_leave", masked, deadline=60)
                self.assert_status("ABORTED", connection.invoke, "hostile", "null_write")
                self.assertEqual(self.look(connection, "secrets", masked), [])


class Refusing(harness.DaemonTest):
    """Programs that are hostile before they are ready are refused, with a reason."""

    images = ("echo",)

    def refused(self, name, program=None):
        with self.connect() as connection:
            with self.assertRaises(wire.StatusError) as caught:
                connection.register("new", program or harness.read_guest(name))
            self.assertNotEqual(caught.exception.message, "")
            self.assert_status("NOT_FOUND", connection.invoke, "new", "one")
            self.assertEqual(connection.invoke("echo", "echo", b"x"), b"x")
        return caught.exception


class StartUp(Refusing):
    sections = {"engine": {"init_deadline": "60s"}}

    def test_refusals(self):
        for name in ("start_abort", "start_code", "start_done", "start_exit", "start_fail",
                     "start_fault", "start_hog", "start_hypercall", "start_wild_abort", "returns"):
            with self.subTest(name):
                self.assertIn(self.refused(name).name,
                              ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "ABORTED"))

    def test_text_of_the_program_itself(self):
        self.assertIn("no such luck: 7", self.refused("start_fail").message)

    def test_last_words(self):
        message = self.refused("start_code").message
        self.assertIn("initialisation failed with code 5; it said last: no database: ?", message)
        self.assertTrue(message.endswith("é"), message)
        self.assertLess(len(message.encode()), 400)
        self.assertNotIn("earlier", message)

    def test_program_that_is_no_guest(self):
        self.assertEqual(self.refused("plain").name, "INVALID_ARGUMENT")


class EndlessStart(Refusing):
    sections = {"engine": {"init_deadline": "2s"}}

    def test_endless_start(self):
        error = self.refused("start_loop")
        self.assertIn(error.name, ("DEADLINE_EXCEEDED", "FAILED_PRECONDITION"))
        self.assertIn("init_deadline, 2 s", error.message)
        self.assertTrue(error.message.endswith("it said last: going round"), error.message)


class TalkativeStart(harness.DaemonTest):
    sections = {"engine": {"init_deadline": "120s"}}

    def test_talkative_start(self):
        """200,000 lines before it is ready: bounded, and no reason to refuse it."""
        with self.connect(timeout=200) as connection:
            connection.register("flood", harness.read_guest("start_flood"))
            self.assertEqual(connection.invoke("flood", "one"), 1)
            log = connection.call("Inspect", {"name": "flood"})["log"]
            self.assertLess(sum(len(line) for line in log), 1 << 20)


class Kinds(harness.DaemonTest):
    """Other kinds of program: position-independent, musl's, none at all, Debian's libpng."""

    def test_kinds(self):
        with self.connect() as connection:
            for name in ("echo_pie", "echo_musl"):
                with self.subTest(name):
                    connection.register(name, harness.read_guest(name))
                    for _ in range(3):
                        self.assertEqual(connection.invoke(name, "echo", b"kind"), b"kind")
                        self.assertEqual(connection.invoke(name, "hello", "you"), "hello, you")

    def test_musl_adder(self):
        with self.connect() as connection:
            connection.register("adder", harness.read_guest("adder_musl"))
            self.assertEqual(connection.invoke("adder", "add_f64", ("f64", 0.1), ("f64", 0.2)),
                             0.1 + 0.2)

    def test_guest_without_any_library(self):
        """Written from doc/guest-abi.md alone, in assembly."""
        with self.connect() as connection:
            connection.register("bare", harness.read_guest("bare"))
            self.assertEqual(connection.invoke("bare", "checksum", b"\1\2\xff"), 258)
            self.assertEqual(connection.invoke("bare", "add", ("i64", 5), ("i64", -7)), -2)
            self.assertNotEqual(connection.invoke("bare", "checksum", b"")["text"], "")

    def test_libpng(self):
        """A library that no example uses: a PNG file made here, described by the guest."""
        width, height = 23, 7
        rows = [os.urandom(width * 4) for _ in range(height)]

        def chunk(kind, data):
            body = kind + data
            return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

        png = (b"\x89PNG\r\n\x1a\n" +
               chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)) +
               chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) +
               chunk(b"IEND", b""))
        crc = zlib.crc32(b"".join(rows))
        with self.connect() as connection:
            connection.register("png", harness.read_guest("png"))
            self.assertEqual(connection.invoke("png", "describe", png),
                             f"{width}x{height} {crc:08x}")
            answer = connection.invoke("png", "describe", png[:60])
            self.assertEqual(answer["code"], 1)
            self.assertEqual(connection.invoke("png", "describe", b"GIF89a")["code"], 1)
