/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debian's static Lua in a guest: evaluates a script nobody trusts. The interpreter is built before
 * the snapshot, with the libraries that touch nothing outside it; whatever a script does to it is
 * gone with the call.
 */
#include <hlguest.h>

#include <lauxlib.h>
#include <lualib.h>

static lua_State *state;

static int set_up(void)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},        {LUA_TABLIBNAME, luaopen_table},
        {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8},  {LUA_COLIBNAME, luaopen_coroutine},
    };
    /* load takes bytecode too, which Lua does not verify. */
    static const char *const closed[] = {"dofile", "loadfile", "load"};

    state = luaL_newstate();
    if (!state)
        hl_fail(HL_FAIL_INIT, "no memory for a Lua state");
    for (size_t i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
        luaL_requiref(state, libraries[i].name, libraries[i].func, 1);
        lua_pop(state, 1);
    }
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++) {
        lua_pushnil(state);
        lua_setglobal(state, closed[i]);
    }
    return 0;
}
HL_INIT(set_up);

/* The message on top of the stack, for what has any: an error value may be of any type. */
static _Noreturn void fail(int code)
{
    const char *text = lua_tostring(state, -1);

    hl_fail(code, "%s", text ? text : "error value is not a string");
}

/* Joins what the script returned with tabs; runs protected, as __tostring may raise. */
static int join_results(lua_State *L)
{
    luaL_Buffer buffer;
    int n = lua_gettop(L);

    luaL_checkstack(L, 4, "too many results");
    luaL_buffinit(L, &buffer);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&buffer, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&buffer);
    }
    luaL_pushresult(&buffer);
    return 1;
}

HL_FUNCTION(string, eval, (string, script))
{
    struct hl_string result;
    int code;

    code = luaL_loadbufferx(state, script.data, script.len, "=script", "t");
    if (code != LUA_OK)
        fail(code);
    code = lua_pcall(state, 0, LUA_MULTRET, 0);
    if (code != LUA_OK)
        fail(code);
    lua_pushcfunction(state, join_results);
    lua_insert(state, 1);
    code = lua_pcall(state, lua_gettop(state) - 1, 1, 0);
    if (code != LUA_OK)
        fail(code);
    result.data = lua_tolstring(state, -1, &result.len);
    if (!hl_string_valid(result))
        hl_fail(LUA_ERRRUN, "result is not UTF-8");
    return result;
}
