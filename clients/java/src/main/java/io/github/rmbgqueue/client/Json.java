package io.github.rmbgqueue.client;

import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads and writes JSON (RFC 8259): maps, lists, strings, booleans, null, Long and BigDecimal. */
final class Json {
    private static final int MAX_DEPTH = 64;

    private final String text;
    private int position;

    private Json(String text) {
        this.text = text;
    }

    /**
     * Parses a document.
     *
     * @throws IllegalArgumentException it is no JSON, or nested more than 64 deep
     */
    static Object parse(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        json.skipSpace();
        if (json.position != text.length()) {
            throw json.unexpected("the end");
        }
        return value;
    }

    static String write(Object value) {
        StringBuilder out = new StringBuilder();
        write(value, out, 0);
        return out.toString();
    }

    private Object value(int depth) {
        if (depth > MAX_DEPTH) {
            throw new IllegalArgumentException("The JSON is nested more than " + MAX_DEPTH + " deep.");
        }
        skipSpace();
        return switch (peek()) {
            case '{' -> object(depth);
            case '[' -> array(depth);
            case '"' -> string();
            case 't' -> literal("true", Boolean.TRUE);
            case 'f' -> literal("false", Boolean.FALSE);
            case 'n' -> literal("null", null);
            default -> number();
        };
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> values = new LinkedHashMap<>();
        position++;
        skipSpace();
        if (accept('}')) {
            return Collections.unmodifiableMap(values);
        }
        do {
            skipSpace();
            if (peek() != '"') {
                throw unexpected("a name");
            }
            String name = string();
            skipSpace();
            expect(':');
            values.put(name, value(depth + 1));
            skipSpace();
        } while (accept(','));
        expect('}');
        return Collections.unmodifiableMap(values);
    }

    private List<Object> array(int depth) {
        List<Object> values = new ArrayList<>();
        position++;
        skipSpace();
        if (accept(']')) {
            return Collections.unmodifiableList(values);
        }
        do {
            values.add(value(depth + 1));
            skipSpace();
        } while (accept(','));
        expect(']');
        return Collections.unmodifiableList(values);
    }

    private String string() {
        StringBuilder out = new StringBuilder();
        position++;
        while (true) {
            char letter = next();
            if (letter == '"') {
                return out.toString();
            }
            if (letter < ' ') {
                throw unexpected("no control character in a string");
            }
            out.append(letter == '\\' ? escaped() : letter);
        }
    }

    private char escaped() {
        char letter = next();
        return switch (letter) {
            case '"', '\\', '/' -> letter;
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'n' -> '\n';
            case 'r' -> '\r';
            case 't' -> '\t';
            case 'u' -> {
                int code = 0;
                for (int digit = 0; digit < 4; digit++) {
                    int part = Character.digit(next(), 16);
                    if (part < 0) {
                        throw unexpected("four hexadecimal digits");
                    }
                    code = code * 16 + part;
                }
                yield (char) code;
            }
            default -> throw unexpected("an escaped letter");
        };
    }

    private Object literal(String word, Object value) {
        if (!text.startsWith(word, position)) {
            throw unexpected(word);
        }
        position += word.length();
        return value;
    }

    private Object number() {
        int start = position;
        while (position < text.length() && "+-.eE0123456789".indexOf(text.charAt(position)) >= 0) {
            position++;
        }
        String digits = text.substring(start, position);
        try {
            BigDecimal value = new BigDecimal(digits);
            return digits.length() < 19 && value.scale() == 0 ? (Object) value.longValueExact() : value;
        } catch (NumberFormatException error) {
            position = start;
            throw unexpected("a value");
        }
    }

    private void skipSpace() {
        while (position < text.length() && " \t\r\n".indexOf(text.charAt(position)) >= 0) {
            position++;
        }
    }

    private char peek() {
        return position < text.length() ? text.charAt(position) : '\0';
    }

    private char next() {
        if (position >= text.length()) {
            throw unexpected("more");
        }
        return text.charAt(position++);
    }

    private boolean accept(char letter) {
        boolean found = peek() == letter;
        if (found) {
            position++;
        }
        return found;
    }

    private void expect(char letter) {
        if (!accept(letter)) {
            throw unexpected("'" + letter + "'");
        }
    }

    private IllegalArgumentException unexpected(String wanted) {
        return new IllegalArgumentException("This is no JSON: " + wanted + " is missing at " + position + ".");
    }

    private static void write(Object value, StringBuilder out, int depth) {
        if (depth > MAX_DEPTH) {
            throw new IllegalArgumentException("The value is nested more than " + MAX_DEPTH + " deep.");
        }
        if (value instanceof Map<?, ?> map) {
            char separator = '{';
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                out.append(separator);
                writeString(String.valueOf(entry.getKey()), out);
                out.append(':');
                write(entry.getValue(), out, depth + 1);
                separator = ',';
            }
            out.append(map.isEmpty() ? "{}" : "}");
        } else if (value instanceof Collection<?> values) {
            char separator = '[';
            for (Object each : values) {
                out.append(separator);
                write(each, out, depth + 1);
                separator = ',';
            }
            out.append(values.isEmpty() ? "[]" : "]");
        } else if (value instanceof Double number && !Double.isFinite(number)) {
            throw new IllegalArgumentException("JSON has no " + number + ".");
        } else if (value == null || value instanceof Boolean || value instanceof Number) {
            out.append(value);
        } else {
            writeString(value.toString(), out);
        }
    }

    private static void writeString(String text, StringBuilder out) {
        out.append('"');
        for (int index = 0; index < text.length(); index++) {
            char letter = text.charAt(index);
            if (letter == '"' || letter == '\\') {
                out.append('\\').append(letter);
            } else if (letter < ' ' || Character.isSurrogate(letter)) {
                out.append(String.format("\\u%04x", (int) letter));
            } else {
                out.append(letter);
            }
        }
        out.append('"');
    }
}
