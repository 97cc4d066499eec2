# SPDX-License-Identifier: Apache-2.0
from l7bpf import compiler
from l7bpf.programs import PROGRAMS


def test_headers_are_put_in_place_once_with_their_lines_named(tmp_path):
    (tmp_path / "main.c").write_text('#include <a/system.h>\n#include "one.h"\n#include "two.h"\nint main;\n')
    (tmp_path / "one.h").write_text('#pragma once\n#include "two.h"\nint one;\n')
    (tmp_path / "two.h").write_text("#pragma once\nint two;\n")
    assert compiler.translation_unit(tmp_path, "main.c").splitlines() == [
        '#line 1 "main.c"',
        "#include <a/system.h>",
        '#line 1 "one.h"',
        "",
        '#line 1 "two.h"',
        "",
        "int two;",
        '#line 3 "one.h"',
        "int one;",
        '#line 3 "main.c"',
        '#line 4 "main.c"',
        "int main;",
    ]


def test_the_datapath_needs_no_file_besides_its_own():
    unit = compiler.translation_unit(compiler.programs_folder())
    assert '#include "' not in unit
    for name in PROGRAMS:
        assert f"int {name}(" in unit
