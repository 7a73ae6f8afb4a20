# SPDX-License-Identifier: Apache-2.0
"""Sends pods through a MutatingAdmissionPolicy and a ValidatingAdmissionPolicy as the API server of Kubernetes 1.36 does.

Standard input is JSON: {"documents": […], "pods": [{"pod": …, "namespace": …}]}. Standard output has one outcome for each pod:
{"skipped": true}, {"refused": MESSAGE} or {"injected": POD, "again": POD, "bare": MESSAGE}, where `again`
is the pod after a second run, and `bare` what the ValidatingAdmissionPolicy says where nothing has put a sidecar in.

CEL is Google's own C++ implementation (PyPI: cel-expr-python), with its type checker. The expressions are evaluated as they
stand in the policies: JSONPatch is a message, and `variables.NAME` the qualified name of a variable with the type that its
expression has. What Kubernetes forbids beyond that is looked for in the checked expressions: literals of mixed types.
"""

import copy
import json
import re
import sys

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2

EXTENSIONS = ("strings", "optional", "two-var-comprehensions")
# Functions and macros of the extensions that Kubernetes 1.36 lacks: its library of strings is version 2.
ABSENT = ("reverse", "transformMap", "transformMapEntry")

RESERVED = (
    "true false null in as break const continue else for function if import let loop package namespace return var void while"
).split()


def environment(variables):
    config = "name: kubernetes\nextensions:\n" + "".join(f"- name: {name}\n" for name in EXTENSIONS)
    return cel.NewEnv(POOL, config=cel.NewEnvConfigFromYaml(config), variables=variables)


def json_patch_type():
    """Kubernetes' type JSONPatch. Its `value` takes whatever JSON can say."""
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(
        name="jsonpatch.proto", syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path", "from"), 1):
        message.field.add(name=name, number=number, type=9, label=1)
    message.field.add(name="value", number=4, type=11, label=1, type_name=".google.protobuf.Value")
    pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = json_patch_type()


# === Checked expressions, read from their protobuf form (cel/expr/checked.proto)


def fields(data):
    """Yields the number and the value of each field: an int, or bytes."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        else:
            size = {1: 8, 5: 4}.get(kind)
            size = varint() if size is None else size
            yield key >> 3, data[place : place + size]
            place += size


def field(data, number, default=b""):
    return next((value for found, value in fields(data) if found == number), default)


# What the type of dyn(1) looks like; a type that is absent is this one too.
DYN = bytes([10, 0])


class Literals:
    """Finds lists and maps of mixed types, which Kubernetes refuses (ValidateHomogeneousAggregateLiterals in cel-go)."""

    def __init__(self, expression):
        any_message = expression.serialize()
        checked = field(any_message, 2)
        self.types = {
            field(entry, 1, 0): field(entry, 2) for number, entry in fields(checked) if number == 3
        }
        self.wrong = []
        self.calls = set()
        self.visit(field(checked, 4))

    def type_of(self, expr, optional=False):
        found = self.types.get(field(expr, 2, 0), DYN)
        if optional:
            # abstract_type { name: "optional_type", parameter_types: [type] }
            found = field(field(found, 14), 2, DYN)
        return found

    def same(self, exprs, what, exempt=False):
        found = {self.type_of(expr, optional) for expr, optional in exprs}
        if len(found) > 1 and not exempt:
            self.wrong.append(f"{what} of mixed types: {sorted(found)}")

    def visit(self, expr, exempt=False):
        for number, value in fields(expr):
            if number == 5:
                self.visit(field(value, 1))
            elif number == 6:
                name = field(value, 2).decode()
                self.calls.add(name)
                for part, argument in fields(value):
                    if part in (1, 3):
                        self.visit(argument, name == "format")
            elif number == 7:
                elements = [element for part, element in fields(value) if part == 1]
                optional = set(self.optional_indices(value))
                self.same([(element, i in optional) for i, element in enumerate(elements)], "a list", exempt)
                for element in elements:
                    self.visit(element)
            elif number == 8:
                entries = [entry for part, entry in fields(value) if part == 2]
                if not field(value, 1):
                    self.same([(field(entry, 3), False) for entry in entries], "keys of a map")
                    self.same([(field(entry, 4), field(entry, 5, 0) == 1) for entry in entries], "a map")
                for entry in entries:
                    self.visit(field(entry, 3))
                    self.visit(field(entry, 4))
            elif number == 9:
                for part, inner in fields(value):
                    if part in (2, 4, 5, 6, 7):
                        self.visit(inner)

    @staticmethod
    def optional_indices(value):
        for part, index in fields(value):
            if part == 2:
                yield from index if isinstance(index, bytes) else [index]


# === JSON Patch


def pointer(path):
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def within(pod, parts):
    for part in parts:
        pod = pod[int(part)] if isinstance(pod, list) else pod[part]
    return pod


def patched(pod, operations):
    pod = copy.deepcopy(pod)
    for operation in operations:
        op, parts = operation["op"], pointer(operation["path"])
        if op == "move":
            old = pointer(operation["from"])
            operation = {"value": within(pod, old)}
            del within(pod, old[:-1])[int(old[-1]) if old[-1].isdigit() else old[-1]]
            op = "add"
        parent, last = within(pod, parts[:-1]), parts[-1]
        if isinstance(parent, list):
            place = len(parent) if last == "-" else int(last)
            if op == "add":
                assert 0 <= place <= len(parent), operation
                parent.insert(place, operation["value"])
            else:
                assert op == "remove", op
                del parent[place]
        elif op == "add":
            parent[last] = operation["value"]
        else:
            assert op == "remove", op
            del parent[last]
    return pod


def number(value):
    """JSON of a protobuf has no whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [number(item) for item in value]
    if isinstance(value, dict):
        return {key: number(item) for key, item in value.items()}
    return value


# === Policies


class Refused(Exception):
    """An expression that Kubernetes would not take."""


class Program:
    """A compiled expression, checked for what Kubernetes would refuse."""

    def __init__(self, name, text, variables, returns=None):
        try:
            self.expression = environment(variables).compile(text)
        except Exception as error:
            raise Refused(f"{name}: {error}") from error
        self.name = name
        # What it reads: each evaluation turns the values that it gets into CEL's own.
        self.reads = set(re.findall(r"\bvariables\.\w+", text)) | {"object", "namespaceObject"}
        self.type = self.expression.return_type()
        # Kubernetes asks for exactly that type.
        if returns is not None and str(self.type) != returns:
            raise Refused(f"{name}: {self.type}, not {returns}")
        literals = Literals(self.expression)
        absent = [function for function in ABSENT if f".{function}(" in text]
        if literals.wrong or absent:
            raise Refused(f"{name}: {literals.wrong} {absent}\n{text}")

    def value(self, data):
        result = self.expression.eval(data={name: data[name] for name in self.reads if name in data})
        if result.type() == cel.Type.ERROR:
            raise ValueError(f"{self.name}: {result.value()}")
        return result.plain_value()


class Policy:
    """One policy with its bindings."""

    def __init__(self, documents, kind):
        of_kind = [document for document in documents if document["kind"] == kind]
        assert len(of_kind) == 1, f"{len(of_kind)} {kind}"
        self.spec = of_kind[0]["spec"]
        name = of_kind[0]["metadata"]["name"]
        self.bindings = [
            document["spec"]["matchResources"]
            for document in documents
            if document["kind"] == kind + "Binding" and document["spec"]["policyName"] == name
        ]
        # Match conditions know neither the namespace nor variables.
        known = {"object": cel.Type.DYN, "request": cel.Type.DYN}
        self.conditions = [
            Program(condition["name"], condition["expression"], known, "BOOL")
            for condition in self.spec["matchConditions"]
        ]

    def matches(self, pod, namespace):
        """Says if a binding sends the pod here."""
        labels = pod["metadata"].get("labels", {})
        names = namespace["metadata"].get("labels", {})
        if not selects(self.spec["matchConstraints"]["namespaceSelector"], names):
            return False
        chosen = [
            binding
            for binding in self.bindings
            if selects(binding.get("namespaceSelector", {}), names) and selects(binding["objectSelector"], labels)
        ]
        assert len(chosen) <= 1, f"several bindings for {labels} in {names}: {chosen}"
        return bool(chosen) and all(condition.value({"object": pod}) for condition in self.conditions)


class Variables:
    """The variables, which both policies share."""

    def __init__(self, variables):
        # Of its metadata, Kubernetes knows these two as maps of text.
        names = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
        self.known = {
            "object": cel.Type.DYN,
            "request": cel.Type.DYN,
            "namespaceObject": cel.Type.Map(cel.Type.STRING, cel.Type.Map(cel.Type.STRING, names)),
        }
        self.programs = []
        for variable in variables:
            name = variable["name"]
            if name in RESERVED or not re.fullmatch("[_a-zA-Z][_a-zA-Z0-9]*", name):
                raise Refused(f"{name} is no identifier of CEL")
            program = Program(name, variable["expression"], self.known)
            self.programs.append(program)
            self.known[f"variables.{name}"] = program.type

    def data(self, pod, namespace):
        """Evaluates them. One that fails is missing, and fails whatever reads it, as in Kubernetes."""
        data = {"object": pod, "namespaceObject": namespace}
        failed = []
        for program in self.programs:
            try:
                data[f"variables.{program.name}"] = program.value(data)
            except ValueError as error:
                failed.append(str(error))
        data["failed"] = failed
        return data


def selects(selector, labels):
    def fits(rule):
        found = labels.get(rule["key"])
        return {
            "In": lambda: found in rule["values"],
            "NotIn": lambda: found not in rule["values"],
            "Exists": lambda: found is not None,
            "DoesNotExist": lambda: found is None,
        }[rule["operator"]]()

    return all(fits(rule) for rule in selector.get("matchExpressions", []))


class Policies:
    def __init__(self, documents):
        self.mutating = Policy(documents, "MutatingAdmissionPolicy")
        self.validating = Policy(documents, "ValidatingAdmissionPolicy")
        assert self.mutating.spec["variables"] == self.validating.spec["variables"]
        self.variables = Variables(self.mutating.spec["variables"])
        known = self.variables.known
        (mutation,) = self.mutating.spec["mutations"]
        self.mutation = Program("mutation", mutation["jsonPatch"]["expression"], known, "LIST<JSONPatch>")
        self.validations = []
        for validation in self.validating.spec["validations"]:
            program = Program(validation["expression"], validation["expression"], known, "BOOL")
            message = validation.get("messageExpression")
            message = message and Program(message, message, known, "STRING")
            self.validations.append((program, message, validation["message"]))

    def mutated(self, pod, namespace, data):
        if not self.mutating.matches(pod, namespace):
            return pod
        try:
            patch = self.mutation.value(data)
        except ValueError as error:
            raise ValueError(f"{error}; {data['failed']}") from error
        return patched(pod, [number(json_format.MessageToDict(operation)) for operation in patch])

    def refusal(self, pod, namespace, data):
        """Returns the message of the first validation that fails."""
        if not self.validating.matches(pod, namespace):
            return None
        for program, message, otherwise in self.validations:
            if not program.value(data):
                said = message and message.value(data)
                return said if said and "\n" not in said and len(said) <= 5 << 10 else otherwise
        return None

    def outcome(self, pod, namespace):
        data = self.variables.data(pod, namespace)
        after = self.mutated(pod, namespace, data)
        if after == pod:
            refusal = self.refusal(pod, namespace, data)
            return {"skipped": True} if refusal is None else {"refused": refusal}
        then = self.variables.data(after, namespace)
        refusal = self.refusal(after, namespace, then)
        if refusal is not None:
            return {"refused": refusal, "changed": after}
        return {
            "injected": after,
            "again": self.mutated(after, namespace, then),
            "bare": self.refusal(pod, namespace, data),
        }

    def taken(self, expression):
        """Says what would be wrong with one more expression."""
        try:
            Program("expression", expression, self.variables.known)
        except Refused as error:
            return str(error)
        return ""


def main():
    asked = json.load(sys.stdin)
    policies = Policies(asked["documents"])
    answers = [policies.outcome(each["pod"], each["namespace"]) for each in asked["pods"]]
    answers += [policies.taken(expression) for expression in asked.get("expressions", [])]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
